/** How wide a figure is. */

/**
 * `width` in CSS pixels, 0 until the figure is laid out; `watch` goes onto its element. It is told by the browser between
 * layout and painting: to ask for it would lay out the page once more, and a guess would be drawn twice.
 */
export function measured() {
  let width = $state(0);
  return {
    get width() {
      return width;
    },
    watch(element: HTMLElement) {
      const observer = new ResizeObserver(([entry]) => (width = Math.round(entry.contentRect.width)));
      observer.observe(element);
      return () => observer.disconnect();
    },
  };
}
