/** What has to be known of the boxes of a fragmented mp4 (ISO/IEC 14496-12). */

const text = (view, at) =>
  String.fromCharCode(...[0, 1, 2, 3].map((place) => view.getUint8(at + place)));

/** The first box of a type between two bytes: where its content begins and ends, or null. */
function find(view, type, start, stop) {
  for (let at = start; at + 8 <= stop; ) {
    const bytes = view.getUint32(at);
    if (bytes < 8) return null;
    if (text(view, at + 4) === type) return { start: at + 8, stop: Math.min(at + bytes, stop) };
    at += bytes;
  }
  return null;
}

/** Whether bytes are a fragment: a `moof` box comes first. */
export const isFragment = (bytes) =>
  bytes.byteLength > 8 && text(new DataView(bytes), 4) === "moof";

/**
 * Whether a fragment begins with a picture that needs no other one.
 *
 * Flags of the first sample are in `trun`, or are the default in `tfhd` (8.8.7 and 8.8.8).
 */
export function beginsWithKey(bytes) {
  const view = new DataView(bytes);
  const inside = (box, type) => box && find(view, type, box.start, box.stop);
  const traf = inside(find(view, "moof", 0, bytes.byteLength), "traf");
  const trun = inside(traf, "trun");
  const tfhd = inside(traf, "tfhd");
  if (!trun || !tfhd) return false;
  const flags = firstFlags(view, trun.start) ?? defaultFlags(view, tfhd.start);
  return flags === null || !(flags & 0x10000);
}

function firstFlags(view, at) {
  const has = view.getUint32(at) & 0xffffff;
  let place = at + 8 + (has & 0x1 ? 4 : 0);
  if (has & 0x4) return view.getUint32(place);
  if (!(has & 0x400)) return null;
  place += (has & 0x100 ? 4 : 0) + (has & 0x200 ? 4 : 0);
  return view.getUint32(place);
}

function defaultFlags(view, at) {
  const has = view.getUint32(at) & 0xffffff;
  if (!(has & 0x20)) return null;
  const sizes = [[0x1, 8], [0x2, 4], [0x8, 4], [0x10, 4]];
  return view.getUint32(sizes.reduce((place, [bit, size]) => place + (has & bit ? size : 0), at + 8));
}
