/** Values as squares of colour: one pixel of the canvas each, which CSS makes large; a frame has no time for more. */

import { hidden, type RGB, sequential, theme } from "./theme.svelte";

type Ramp = (x: number) => RGB;

/** Colours of a ramp, and of a byte that is painted. */
const SHADES = 256;
const pixel = ([r, g, b]: RGB) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
const tables = { light: new Map<Ramp, Uint32Array>(), dark: new Map<Ramp, Uint32Array>() };

/** A ramp as pixels from `low` to 1, worked out once in light and once in dark. */
function table(ramp: Ramp, low: number): Uint32Array {
  const mine = tables[theme.dark ? "dark" : "light"];
  const known = mine.get(ramp);
  if (known) return known;
  const made = new Uint32Array(SHADES);
  for (let i = 0; i < SHADES; i++) made[i] = pixel(ramp(low + ((1 - low) * i) / (SHADES - 1)));
  mine.set(ramp, made);
  return made;
}

/** What each of `size` tokens takes from those before it: rows of shares from 0 to `most`, one after another. */
export interface Pattern {
  values: ArrayLike<number>;
  /** Where the pattern begins among the values. */
  from?: number;
  size: number;
  most: number;
  /** Whether the first token's share is left out. */
  hideFirst: boolean;
}

/** A canvas on which values are painted, one map or many beside each other; what is not painted stays clear. */
export class Sheet {
  private image: ImageData;
  private pixels: Uint32Array;
  private pen: CanvasRenderingContext2D;

  constructor(canvas: HTMLCanvasElement, width: number, height: number) {
    // A new size makes a new store, which costs more than the painting.
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    this.pen = canvas.getContext("2d", { willReadFrequently: true })!;
    this.image = this.pen.createImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  /** A vector as a row from the left, `tall` pixels high; its values run from `low` to 1 along the ramp. */
  row(values: number[], scale: number, ramp: Ramp, low: number, top: number, tall: number) {
    const colours = table(ramp, low);
    const width = this.image.width;
    const step = (SHADES - 1) / (1 - low);
    for (let i = 0; i < values.length; i++) {
      const shade = colours[Math.round((Math.min(Math.max(scale * values[i], low), 1) - low) * step)];
      for (let y = 0, place = top * width + i; y < tall; y++, place += width) this.pixels[place] = shade;
    }
  }

  /** A head's pattern. Its shares are painted by their root, so that small ones are seen. */
  pattern({ values, from = 0, size, most, hideFirst }: Pattern, top = 0, left = 0) {
    const colours = table(sequential, 0);
    const blank = pixel(hidden());
    for (let q = 0; q < size; q++) {
      const place = (top + q) * this.image.width + left;
      const first = from + q * size;
      for (let k = 0; k <= q; k++)
        this.pixels[place + k] = colours[hideFirst && k === 0 ? 0 : Math.round((SHADES - 1) * Math.sqrt(Math.min(values[first + k] / most, 1)))];
      this.pixels.fill(blank, place + q + 1, place + size);
    }
  }

  show() {
    this.pen.putImageData(this.image, 0, 0);
  }
}
