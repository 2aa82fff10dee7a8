// The server's answers: decoded once, tinted and outlined at the size of the screen.

const FILL = 0.42, LINE = 1.6, HIT_SIDE = 1024;
const MANY = 8, REST_MS = 120; // masks that are not painted anew in every frame of a movement
let masks = [], drawnVersion = -1, hits = null, overlayKey = '', overlayView = null, movedAt = 0, answers = 0;
const overlay = document.createElement('canvas'), shape = document.createElement('canvas');
const outline = document.createElement('canvas');

async function takeMasks() {
  const answer = props.masks || {};
  const list = answer.objects || [];
  const wanted = photo() && answer.photo === photo().id;
  if (!wanted) return list.length ? undefined : showMasks([], drawnVersion);
  if (answer.version < drawnVersion) return;
  drawnVersion = answer.version;
  answers += 1;
  const turn = answers, images = await Promise.all(list.map(decode));
  // Another answer, or another photo, may have come meanwhile.
  if (turn === answers && photo() && photo().id === answer.photo) {
    showMasks(list.map((item, index) => ({ ...item, image: images[index] })), answer.version);
  }
}

async function decode(item) {
  const image = new Image();
  image.src = `data:image/png;base64,${item.png}`;
  await image.decode();
  return image;
}

function showMasks(list, answered) {
  answers += 1;
  // Small ones lie over large ones, and are the ones that a pointer finds.
  masks = list.sort((a, b) => b.area - a.area);
  root.dataset.version = answered; // of the prompts that the masks on the screen answer
  root.dataset.masks = masks.map((item) => item.id).sort((a, b) => a - b).join(' ');
  hits = null;
  overlayKey = '';
  renderObjects();
  redraw();
}

// An object that was undone or deleted loses its mask at once, not with the answer.
function visibleMasks() {
  if (MODE !== 'prompt') return masks;
  const prompted = new Set(objects().filter(isKnown).map((item) => item.id));
  return masks.filter((item) => prompted.has(item.id));
}

function size(layer, width, height) {
  layer.width = Math.max(1, width);
  layer.height = Math.max(1, height);
  return layer.getContext('2d');
}

// Painted only when it is asked for.
const isOff = (item) => (props.off || []).includes(item.id);

// One mask, filled and outlined, onto `target`; all in device pixels.
function paintMask(target, item, density, strength) {
  const k = scale() * density, margin = 3 * density;
  const left = offsetX * density + item.x * k, top = offsetY * density + item.y * k;
  const x0 = Math.max(0, Math.floor(left - margin)), y0 = Math.max(0, Math.floor(top - margin));
  const x1 = Math.min(target.canvas.width, Math.ceil(left + item.width * k + margin));
  const y1 = Math.min(target.canvas.height, Math.ceil(top + item.height * k + margin));
  if (x1 <= x0 || y1 <= y0) return;
  const color = colorOf(item.id);
  const fill = size(shape, x1 - x0, y1 - y0), line = size(outline, x1 - x0, y1 - y0);
  fill.drawImage(item.image, left - x0, top - y0, item.width * k, item.height * k);
  for (let turn = 0; turn < 8; turn += 1) {
    const angle = (turn * Math.PI) / 4;
    line.drawImage(shape, Math.cos(angle) * LINE * density, Math.sin(angle) * LINE * density);
  }
  line.globalCompositeOperation = 'destination-out';
  line.drawImage(shape, 0, 0);
  for (const layer of [fill, line]) {
    layer.globalCompositeOperation = 'source-in';
    layer.fillStyle = color;
    layer.fillRect(0, 0, x1 - x0, y1 - y0);
  }
  target.globalAlpha = FILL * strength;
  target.drawImage(shape, x0, y0);
  target.globalAlpha = strength;
  target.drawImage(outline, x0, y0);
  target.globalAlpha = 1;
}

function paintOverlay(target, density) {
  const shown = visibleMasks();
  const painted = shown.filter((item) => !isOff(item));
  const { width, height } = target.canvas;
  const key = [...painted.map((item) => item.id), width, height, offsetX, offsetY, zoom].join();
  const rests = performance.now() - movedAt > REST_MS;
  if (key !== overlayKey && overlayKey && shown.length > MANY && !rests) {
    // While the view moves, the masks as they were are moved along.
    const k = scale() / overlayView.scale;
    target.setTransform(k, 0, 0, k, (offsetX - k * overlayView.x) * density, (offsetY - k * overlayView.y) * density);
    target.drawImage(overlay, 0, 0);
    target.setTransform(1, 0, 0, 1, 0, 0);
    setTimeout(redraw, REST_MS);
    return;
  }
  if (key !== overlayKey) {
    const layer = size(overlay, target.canvas.width, target.canvas.height);
    for (const item of painted) paintMask(layer, item, density, 1);
    [overlayKey, overlayView] = [key, { x: offsetX, y: offsetY, scale: scale() }];
  }
  const marked = shown.find((item) => item.id === hovered) || shown.find((item) => item.id === props.highlight);
  target.globalAlpha = marked ? 0.35 : 1;
  target.drawImage(overlay, 0, 0);
  target.globalAlpha = 1;
  if (marked) for (const strength of [1, 0.6]) paintMask(target, marked, density, strength);
}

// The number of the smallest mask at each place, for the pointer.
function hitMap() {
  const shrink = Math.min(1, HIT_SIDE / Math.max(photo().width, photo().height));
  const width = Math.ceil(photo().width * shrink), height = Math.ceil(photo().height * shrink);
  const map = { shrink, width, ids: new Int32Array(width * height).fill(-1) };
  const layer = document.createElement('canvas');
  for (const item of masks) {
    const x = Math.floor(item.x * shrink), y = Math.floor(item.y * shrink);
    const w = Math.min(width - x, Math.ceil(item.width * shrink) + 1);
    const h = Math.min(height - y, Math.ceil(item.height * shrink) + 1);
    if (w < 1 || h < 1) continue;
    layer.width = w;
    layer.height = h;
    const context = layer.getContext('2d', { willReadFrequently: true });
    context.drawImage(item.image, item.x * shrink - x, item.y * shrink - y, item.width * shrink, item.height * shrink);
    const { data } = context.getImageData(0, 0, w, h);
    for (let i = 0; i < w * h; i += 1) {
      if (data[4 * i + 3] > 127) map.ids[(y + Math.floor(i / w)) * width + x + (i % w)] = item.id;
    }
  }
  return map;
}

function maskAt([x, y]) {
  hits = hits || hitMap();
  const id = hits.ids[Math.floor(y * hits.shrink) * hits.width + Math.floor(x * hits.shrink)];
  return masks.find((item) => item.id === id) || null;
}
