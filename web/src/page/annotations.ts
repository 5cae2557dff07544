/** Labels as SA-1B's and COCO's JSON. */

import type { Segmenter, Size } from "../index";
import type { LabelledObject, SavedAnnotation } from "./labels";

export interface Sa1bAnnotation extends SavedAnnotation {
  readonly id: number;
  readonly predicted_iou: number;
  readonly crop_box: readonly number[];
  readonly category?: string;
}

export interface Sa1bDocument {
  readonly image: { image_id: number; width: number; height: number; file_name: string };
  readonly annotations: readonly Sa1bAnnotation[];
}

/** One photo's objects at the photo's own size. */
export async function toSa1b(
  segmenter: Segmenter,
  fileName: string,
  originalSize: Size,
  viewSize: Size,
  objects: readonly LabelledObject[],
): Promise<Sa1bDocument> {
  const [height, width] = originalSize;
  const scale = [width / viewSize[1], height / viewSize[0]] as const;
  const annotations: Sa1bAnnotation[] = [];
  for (const object of objects) {
    const saved = object.saved ?? (await drawn(segmenter, object, scale));
    if (!saved) continue;
    annotations.push({
      id: annotations.length + 1,
      area: saved.area,
      bbox: saved.bbox,
      segmentation: saved.segmentation,
      predicted_iou: object.predictedIou,
      stability_score: saved.stability_score,
      point_coords: saved.point_coords,
      crop_box: [0, 0, width, height],
      ...(object.name ? { category: object.name } : {}),
    });
  }
  return { image: { image_id: 0, width, height, file_name: fileName }, annotations };
}

async function drawn(
  segmenter: Segmenter,
  object: LabelledObject,
  [scaleX, scaleY]: readonly [number, number],
): Promise<SavedAnnotation | undefined> {
  if (!object.cells || !object.mask?.area) return undefined;
  const { rle, bbox, area } = await segmenter.rle(object.cells);
  const stability = object.mask.stabilityScore;
  return {
    segmentation: rle,
    bbox: [bbox[0], bbox[1], bbox[2] - bbox[0], bbox[3] - bbox[1]],
    area,
    stability_score: Number.isFinite(stability) ? stability : 0,
    point_coords: object.points.map(({ x, y }) => [x * scaleX, y * scaleY]),
  };
}

/** COCO's form: names are categories, and a box ends behind its last pixel. */
export function toCoco(document: Sa1bDocument): unknown {
  const names = [...new Set(document.annotations.map(({ category }) => category ?? "object"))].sort();
  const { image_id, ...image } = document.image;
  return {
    images: [{ id: image_id + 1, ...image }],
    categories: names.map((name, index) => ({ id: index + 1, name })),
    annotations: document.annotations.map(({ id, area, bbox, segmentation, category }) => ({
      id,
      image_id: image_id + 1,
      category_id: names.indexOf(category ?? "object") + 1,
      area,
      bbox: [bbox[0], bbox[1], bbox[2]! + 1, bbox[3]! + 1],
      iscrowd: 0,
      segmentation,
    })),
  };
}
