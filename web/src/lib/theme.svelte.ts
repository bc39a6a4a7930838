/** Light or dark, and the colours of what is painted on canvas: the same ramps as the pictures of `gpt2 plot`. */

type Choice = "auto" | "light" | "dark";

const media = matchMedia("(prefers-color-scheme: dark)");
const stored = (): Choice => {
  try {
    const value = localStorage.getItem("theme");
    return value === "light" || value === "dark" ? value : "auto";
  } catch {
    return "auto";
  }
};

let choice = $state<Choice>(stored());
let system = $state(media.matches);
media.addEventListener("change", () => (system = media.matches));

export const theme = {
  get choice() {
    return choice;
  },
  get dark() {
    return choice === "auto" ? system : choice === "dark";
  },
  set(next: Choice) {
    choice = next;
    try {
      localStorage.setItem("theme", next);
    } catch {
      // A page without storage forgets the choice, no more.
    }
    show();
  },
};

function show() {
  if (choice === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
}
show();

export type RGB = [number, number, number];
const rgb = (hex: string): RGB => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)) as RGB;
const ramp = (colours: string) => colours.split(" ").map(rgb);

const SEQUENTIAL = {
  light: ramp("#ffffff #d5e4f3 #9cc0e3 #5b96cc #2a6bac #124680 #0a2a52"),
  dark: ramp("#1a2027 #1d3550 #25567f #3a80b5 #69abd9 #a9d3f0 #eef7fd"),
};
const POSITIVE = {
  light: ramp("#ffffff #d5e4f3 #9cc0e3 #5b96cc #2a6bac #124680"),
  dark: ramp("#1a2027 #1d3550 #25567f #3a80b5 #69abd9 #b5daf3"),
};
const NEGATIVE = {
  light: ramp("#ffffff #fbdcb8 #f0ab63 #cf7a22 #8f4a06 #572a00"),
  dark: ramp("#1a2027 #40291a #754622 #b06c2b #e69c52 #fbd3a6"),
};
export const HIDDEN = { light: rgb("#f3f1ed"), dark: rgb("#20272f") };

function along(colours: RGB[], x: number): RGB {
  const place = Math.min(Math.max(x, 0), 1) * (colours.length - 1);
  const i = Math.min(Math.floor(place), colours.length - 2);
  const part = place - i;
  return colours[i].map((c, j) => Math.round(c + part * (colours[i + 1][j] - c))) as RGB;
}

const mode = () => (theme.dark ? "dark" : "light");

/** 0 to 1: from the card's colour to the strongest contrast. */
export const sequential = (x: number): RGB => along(SEQUENTIAL[mode()], x);

/** −1 to 1: orange below zero, blue above. */
export const diverging = (x: number): RGB => along((x < 0 ? NEGATIVE : POSITIVE)[mode()], Math.abs(x));

export const hidden = (): RGB => HIDDEN[mode()];

const css = ([r, g, b]: RGB) => `rgb(${r} ${g} ${b})`;

const shades: Record<"light" | "dark", [string, string][]> = { light: [], dark: [] };
/** The sequential colour of x, one of a hundred, and what reads on it. */
export function shaded(x: number): [string, string] {
  const at = Math.round(100 * Math.min(Math.max(x, 0), 1));
  const known = shades[mode()];
  if (!known[at]) {
    const colour = sequential(at / 100);
    known[at] = [css(colour), readable(colour)];
  }
  return known[at];
}

/** Black or white, whichever reads better on a colour. */
function readable([r, g, b]: RGB): string {
  const linear = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 ? "#000" : "#fff";
}
