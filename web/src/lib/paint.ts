/** Values as squares of colour: one pixel of the canvas each, which CSS makes large; a frame has no time for more. */

import { type RGB, theme } from "./theme.svelte";

type Ramp = (x: number) => RGB;

const SHADES = 1024;
const pixel = ([r, g, b]: RGB) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
const tables = { light: new Map<Ramp, Uint32Array>(), dark: new Map<Ramp, Uint32Array>() };

/** A ramp as pixels from `low` to 1, worked out once in light and once in dark. */
function table(ramp: Ramp, low: number): Uint32Array {
  const mine = tables[theme.dark ? "dark" : "light"];
  const known = mine.get(ramp);
  if (known) return known;
  const made = Uint32Array.from({ length: SHADES + 1 }, (_, i) => pixel(ramp(low + ((1 - low) * i) / SHADES)));
  mine.set(ramp, made);
  return made;
}

/**
 * Fill a canvas of `rows` by `columns` pixels.
 * `at` gives each one's value, from `low` to 1 along the ramp; NaN is painted in `none`.
 */
export function paint(
  canvas: HTMLCanvasElement,
  rows: number,
  columns: number,
  ramp: Ramp,
  at: (row: number, column: number) => number,
  { low = 0, none = [0, 0, 0] as RGB } = {},
) {
  const colours = table(ramp, low);
  const blank = pixel(none);
  canvas.width = columns;
  canvas.height = rows;
  const pen = canvas.getContext("2d")!;
  const image = pen.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let row = 0, i = 0; row < rows; row++)
    for (let column = 0; column < columns; column++, i++) {
      const x = at(row, column);
      pixels[i] = Number.isNaN(x) ? blank : colours[Math.round((SHADES * (Math.min(Math.max(x, low), 1) - low)) / (1 - low))];
    }
  pen.putImageData(image, 0, 0);
}
