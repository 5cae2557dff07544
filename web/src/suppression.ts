/** Non-maximum suppression of boxes, as boxes.py: in float32, as torchvision's nms, so that ties fall alike. */

/** Indices to keep, best score first. Boxes are xyxy; one goes whose IoU with a kept one is above the threshold. */
export function suppress(boxes: readonly (readonly number[])[], scores: readonly number[], threshold: number): number[] {
  const f = Math.fround;
  const areas = boxes.map(([x0, y0, x1, y1]) => f(f(x1! - x0!) * f(y1! - y0!)));
  let waiting = scores.map((_, index) => index).sort((a, b) => f(scores[b]!) - f(scores[a]!) || a - b);
  const kept: number[] = [];
  while (waiting.length) {
    const [best, ...rest] = waiting as [number, ...number[]];
    kept.push(best);
    const a = boxes[best]!;
    waiting = rest.filter((index) => {
      const b = boxes[index]!;
      const width = Math.max(Math.min(a[2]!, b[2]!) - Math.max(a[0]!, b[0]!), 0);
      const height = Math.max(Math.min(a[3]!, b[3]!) - Math.max(a[1]!, b[1]!), 0);
      const overlap = f(width * height);
      const iou = f(overlap / f(f(areas[best]! + areas[index]!) - overlap));
      return !(iou > threshold); // 0/0 of two boxes without area stays
    });
  }
  return kept;
}
