// Drawing: photo, masks, prompts, and what the pointer is about to do.

const DOT = 6;
const INCLUDED = '#15803d', EXCLUDED = '#dc2626';
const picture = new Image();
let pictureReady = false, drawing = null, hovered = null, frameAsked = false;

function redraw() {
  if (frameAsked) return;
  frameAsked = true;
  requestAnimationFrame(() => {
    frameAsked = false;
    draw();
  });
}

function fitSurface() {
  const box = surface.getBoundingClientRect();
  if (!box.width || !box.height) return; // in a tab that is not open
  const center = photo() && toImage(stageWidth / 2, stageHeight / 2);
  [stageWidth, stageHeight] = [box.width, box.height];
  const density = window.devicePixelRatio || 1;
  surface.width = Math.round(stageWidth * density);
  surface.height = Math.round(stageHeight * density);
  if (photo()) {
    offsetX = stageWidth / 2 - center[0] * scale();
    offsetY = stageHeight / 2 - center[1] * scale();
    keepInside();
  }
  viewChanged();
}

function draw() {
  const target = surface.getContext('2d'), density = surface.width / stageWidth;
  if (props.track && photo() && !pictureReady) return; // the frame before stays until the next one is there
  target.setTransform(1, 0, 0, 1, 0, 0);
  target.clearRect(0, 0, surface.width, surface.height);
  if (!photo() || !pictureReady) return;
  const [left, top] = toStage(0, 0);
  target.imageSmoothingEnabled = scale() * (photo().width / picture.naturalWidth) < 4;
  target.imageSmoothingQuality = 'high';
  target.drawImage(
    picture, left * density, top * density, photo().width * scale() * density, photo().height * scale() * density,
  );
  target.imageSmoothingEnabled = true;
  paintOverlay(target, density);
  target.setTransform(density, 0, 0, density, 0, 0);
  for (const item of objects()) drawPrompts(target, item, MODE === 'view' || item.id === selectedId());
  if (drawing) drawBox(target, [...drawing.from, ...drawing.to], '#ffffff', [5, 4]);
  if (crosshair) drawCrosshair(target);
}

function drawPrompts(target, item, isSelected) {
  if (item.box) drawBox(target, item.box, colorOf(item.id), []);
  item.points.forEach(([x, y], index) => drawDot(target, x + 0.5, y + 0.5, item.labels[index], isSelected));
}

function drawBox(target, [x1, y1, x2, y2], color, dash) {
  const [left, top] = toStage(x1, y1), [right, bottom] = toStage(x2, y2);
  const rectangle = [left, top, right - left, bottom - top];
  target.setLineDash([]);
  target.strokeStyle = 'rgba(0, 0, 0, 0.65)';
  target.lineWidth = 4;
  target.strokeRect(...rectangle);
  target.setLineDash(dash);
  target.strokeStyle = color;
  target.lineWidth = 2;
  target.strokeRect(...rectangle);
  target.setLineDash([]);
}

// A plus includes and a minus excludes, so that colour alone says nothing.
function drawDot(target, x, y, label, isSelected) {
  const [left, top] = toStage(x, y), radius = isSelected ? DOT : DOT - 1.5, arm = radius * 0.55;
  target.globalAlpha = isSelected ? 1 : 0.8;
  target.beginPath();
  target.arc(left, top, radius + 2, 0, 2 * Math.PI);
  target.fillStyle = '#ffffff';
  target.shadowColor = 'rgba(0, 0, 0, 0.5)';
  target.shadowBlur = 3;
  target.fill();
  target.shadowBlur = 0;
  target.beginPath();
  target.arc(left, top, radius, 0, 2 * Math.PI);
  target.fillStyle = label ? INCLUDED : EXCLUDED;
  target.fill();
  target.beginPath();
  target.moveTo(left - arm, top);
  target.lineTo(left + arm, top);
  if (label) {
    target.moveTo(left, top - arm);
    target.lineTo(left, top + arm);
  }
  target.strokeStyle = '#ffffff';
  target.lineWidth = 1.6;
  target.stroke();
  target.globalAlpha = 1;
}

function drawCrosshair(target) {
  const [left, top] = toStage(crosshair[0] + 0.5, crosshair[1] + 0.5);
  if (cornerKept) drawBox(target, [...cornerKept, crosshair[0] + 1, crosshair[1] + 1], '#ffffff', [5, 4]);
  for (const [color, width] of [['rgba(0, 0, 0, 0.7)', 4], ['#ffffff', 1.5]]) {
    target.strokeStyle = color;
    target.lineWidth = width;
    target.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      target.moveTo(left + 4 * dx, top + 4 * dy);
      target.lineTo(left + 14 * dx, top + 14 * dy);
    }
    target.stroke();
  }
}
