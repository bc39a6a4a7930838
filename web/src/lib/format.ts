/** Numbers and tokens as people read them. */

/** 12345 → 12,345, a whole number. (Intl.NumberFormat takes a tenth of the page's start to be made.) */
export const count = (n: number) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, ",");

/** 12.3 %, 0.42 %, 0.0031 %: three digits or two that say something. */
export function percent(p: number): string {
  const x = 100 * p;
  if (x === 0) return "0 %";
  if (x >= 99.95) return x >= 99.9995 ? "100 %" : `${x.toFixed(2)} %`;
  if (x >= 10) return `${x.toFixed(1)} %`;
  if (x >= 0.1) return `${x.toFixed(2)} %`;
  if (x >= 0.0001) return `${x.toPrecision(2)} %`;
  return `${x.toExponential(0)} %`;
}

export const signed = (x: number, digits = 2) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(digits)}`;

export const fixed = (x: number, digits = 2) => `${x < 0 ? "−" : ""}${Math.abs(x).toFixed(digits)}`;

/** 1,088,256 → 1.09 M. */
export function short(n: number): string {
  if (n >= 1e9) return `${(n / 1e9).toPrecision(3)} B`;
  if (n >= 1e6) return `${(n / 1e6).toPrecision(3)} M`;
  if (n >= 1e4) return `${(n / 1e3).toPrecision(3)} k`;
  return count(n);
}

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export const START = "<|endoftext|>";

/** A token's mark in figures: the start of a text is a small sign instead of thirteen letters. */
export const label = (token: string) => (token === START ? "▸" : token);

export const spoken = (token: string) =>
  token === START ? "start of text" : token.replaceAll("␣", " ").replaceAll("⏎", " line end ").trim() || "space";
