/** Where the words of a map stand, and which of them have room for their name. */

import type { Neighbours, WordMap } from "./types";

export interface Dot {
  token: string;
  name: string;
  x: number;
  y: number;
  /** Whether its name is written beside it, and whether on the left. */
  named: boolean;
  left: boolean;
  /** A neighbour of the word asked for, and that word itself. */
  near: boolean;
  own: boolean;
}

/** Left, right, top, bottom. */
type Box = [number, number, number, number];
const apart = (a: Box, b: Box) => a[1] < b[0] || a[0] > b[1] || a[3] < b[2] || a[2] > b[3];

/** The dots in a field of `width` by `height` pixels, in the order of the map: the more frequent first. */
export function placed(map: WordMap, near: Neighbours | null, width: number, height: number): Dot[] {
  const pad = 34;
  const xs = map.places.map((p) => p[0]);
  const ys = map.places.map((p) => p[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const neighbours = new Set(near?.tokens);
  const dots = map.places.map(([x, y], i) => ({
    token: map.tokens[i],
    name: map.tokens[i].replace("␣", ""),
    x: pad / 2 + ((width - 2 * pad) * (x - x0)) / (x1 - x0 || 1),
    y: height - 12 - ((height - 24) * (y - y0)) / (y1 - y0 || 1),
    named: false,
    left: false,
    near: neighbours.has(map.tokens[i]),
    own: near?.token === map.tokens[i],
  }));
  name(dots, width);
  return dots;
}

/** Names go to dots with room: first the word asked for and its neighbours, which may cover dots, never another name. */
function name(dots: Dot[], width: number) {
  const names = dots.filter((d) => d.own).map((d): Box => [d.x - 4.5, d.x + 4.5, d.y - 5, d.y + 5]);
  const rank = (d: Dot) => (d.own ? 0 : d.near ? 1 : 2);
  for (const d of [...dots].sort((a, b) => rank(a) - rank(b)))
    for (const left of [false, true]) {
      const far = 8 + 7.4 * d.name.length;
      const tall = rank(d) < 2 ? 5.5 : 7;
      const box: Box = [d.x + (left ? -far : 5), d.x + (left ? -5 : far), d.y - tall, d.y + tall];
      if (d.named || box[0] < 0 || box[1] > width || !names.every((other) => apart(box, other))) continue;
      if (rank(d) < 2 || dots.every((o) => o === d || apart(box, [o.x - 3, o.x + 3, o.y - 3, o.y + 3]))) {
        [d.named, d.left] = [true, left];
        names.push(box);
      }
    }
}
