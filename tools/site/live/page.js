// The trained network on its page: fills work.html and answers in it; network.js computes, in a
// worker. "22.0", the value of a switch, is the first path of the block that ends with layer 22.
"use strict";
{
const SIDE = 28, FINE = 280; // of the network's pictures; of one's own before it is made as small
const live = document.querySelector(".live"), find = selector => live.querySelector(selector);
const all = selector => [...live.querySelectorAll(selector)];
const sum = numbers => numbers.reduce((a, b) => a + b, 0);
const bytes = (base64, text = atob(base64)) =>
  new Uint8Array(text.length).map((_, i) => text.charCodeAt(i));
const [{work, net, ends, names, grey}, ...weights] = liveData;
find(".live-load").outerHTML = work;

function paint(canvas, pixels, width = Math.sqrt(pixels.length)) {
  const image = new ImageData(width, pixels.length / width);
  image.data.forEach((_, i, data) => data[i] = i % 4 < 3 ? pixels[i >> 2] : 255);
  [canvas.width, canvas.height] = [width, image.height];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function fill(part, markup, pictures) {
  find(part).innerHTML = markup.join("");
  all(`${part} canvas`).forEach((canvas, i) => paint(canvas, ...pictures[i]));
}

// One's own picture made like those of the data set: grey, light on black, no margin, small.
async function prepare(file) {
  const bitmap = await createImageBitmap(file, {imageOrientation: "from-image"});
  const scale = FINE / Math.max(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width, bitmap.height].map(n => Math.max(1, Math.round(n * scale)));
  const context = Object.assign(document.createElement("canvas"), {width, height}).getContext("2d");
  Object.assign(context, {fillStyle: "#fff", imageSmoothingQuality: "high"});
  context.fillRect(0, 0, width, height); // behind what is transparent
  context.drawImage(bitmap, 0, 0, width, height);
  const {data} = context.getImageData(0, 0, width, height);
  const grey = Uint8Array.from({length: width * height}, (_, i) =>
    0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2] + 0.5);
  const corners = [0, width - 1, grey.length - width, grey.length - 1];
  const isLight = sum(corners.map(i => grey[i])) > 4 * 127;
  const turned = grey.map(n => isLight ? 255 - n : n);
  const ground = sum(corners.map(i => turned[i])) / 4; // becomes black
  const bright = [...turned.keys()].filter(i => turned[i] > ground + 48);
  const [xs, ys] = [i => i % width, i => Math.floor(i / width)].map(place =>
    (bright.length ? bright : corners).map(place).sort((a, b) => a - b));
  const left = xs[0], top = ys[0], wide = xs.at(-1) + 1 - left, high = ys.at(-1) + 1 - top;
  const means = new Float32Array(SIDE ** 2), part = FINE / SIDE, longer = Math.max(wide, high);
  for (let i = 0; i < FINE ** 2; i++) {
    const column = i % FINE, row = Math.floor(i / FINE);
    const [x, y] = [[column, wide], [row, high]].map(([at, length]) =>
      Math.floor((length - longer) / 2 + (at + 0.5) / FINE * longer));
    if (x < 0 || x >= wide || y < 0 || y >= high) continue;
    const above = Math.max(0, turned[(top + y) * width + left + x] - ground) * 255 / (255 - ground);
    means[Math.floor(row / part) * SIDE + Math.floor(column / part)] += above / part ** 2;
  }
  const pixels = Uint8Array.from(means, Math.round), inverted = ["反色", turned, width];
  return {pixels, steps: [["灰度", grey, width], ...isLight ? [inverted] : [], ["裁到28×28", pixels]]};
}

// The worker is asked one thing at a time, and then the last that was wanted meanwhile.
const source = `"use strict";const {answer} = (${liveNetwork})();onmessage = answer`;
const worker = new Worker(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
const off = new Set();
let picture, sent, busy, waits;

function change(chosen = picture) {
  picture = chosen;
  waits = busy;
  if (busy) return;
  busy = live.ariaBusy = true;
  worker.postMessage({pixels: picture === sent ? null : picture.pixels, off: [...off]});
  sent = picture;
}

worker.onmessage = ({data}) => {
  if (find("progress").value = data.done ?? 0) return;
  busy = false;
  if (waits) return change();
  live.ariaBusy = false;
  show(data);
};
worker.onerror = () => find(".live-said").textContent = "出错了，算不下去：换一个新些的浏览器再试";

const percent = p => `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)}%`;
const shares = scores => scores.map(s => 1 / sum(scores.map(other => Math.exp(other - s)))); // softmax
const verdict = (shares, most = Math.max(...shares)) =>
  `${names[shares.indexOf(most)]}（${percent(most)}）`;

function show({scores, normal, image, maps}) {
  const now = shares(scores), before = shares(normal), {label, steps} = picture;
  const pictures = [...steps, [`${net.side}×${net.side}`, image]];
  fill(".live-steps", pictures.map(([name]) =>
    `<figure><canvas></canvas><figcaption>${name}</figcaption></figure>`), pictures.map(p => p.slice(1)));
  all(".live-bars tr").forEach((row, i) => {
    row.classList.toggle("live-true", i === label);
    row.querySelector("i").style.width = percent(now[i]);
    row.querySelector("b").style.left = percent(before[i]);
    row.lastChild.textContent = percent(now[i]);
  });
  const truth = Math.max(...now) === now[label] ? "" : `；其实是${names[label]}`;
  find(".live-said").textContent = `认作${verdict(now)}`
    + (off.size ? `；关掉${off.size}条路径之前是${verdict(before)}` : "")
    + (label === undefined ? "；它只会在这十类里挑" : truth);
  fill(".live-maps", maps.map(({layer, shape, tiles}) =>
    `<span>模块${1 + ends.findIndex(end => end >= layer)}<br>${shape.join("×")}</span>`
    + "<canvas></canvas>".repeat(tiles.length)), maps.flatMap(({tiles}) => tiles.map(tile => [tile])));
  for (const input of all("[role=switch]")) input.checked = !off.has(input.value);
  live.classList.toggle("live-off", off.size);
}

const radios = all("[type=radio]"), table = find(".live-blocks");
radios.forEach((radio, i) => {
  const pixels = bytes(grey).subarray(i * SIDE ** 2, (i + 1) * SIDE ** 2);
  paint(radio.nextSibling, pixels);
  radio.onchange = () => change({pixels, label: i % names.length, steps: [["28×28", pixels]]});
});
find(".live-own").onchange = async ({target}) => {
  const [file] = target.files;
  if (!file) return;
  try {
    change(await prepare(file));
    for (const radio of radios) radio.checked = false;
  } catch {
    find(".live-said").textContent = `读不出${file.name}：不是图片，或者浏览器不认识它的格式`;
  }
  target.value = ""; // the same file can be chosen again
};

function turn(switches, on) {
  for (const {value} of switches) off[on ? "delete" : "add"](value);
  change();
}
table.onchange = ({target}) => turn([target], target.checked);
table.onclick = ({target}) => {
  if (target.type !== "button") return;
  const its = [...(target.closest("tr") ?? table).querySelectorAll("input")]; // of a row, or all
  turn(its, its.every(({value}) => off.has(value)) || target.matches(".live-reset"));
  if (!stops.includes(target)) stops[0].focus(); // that button hides itself
};
// The tab key stops at one of them; arrows go on from there.
const stops = [...table.querySelectorAll("tr :is(button, input)")];
const down = stops.length / (table.rows.length - 1);
const stopAt = target => stops.forEach(stop => stop.tabIndex = stop === target ? 0 : -1);
stops.forEach(stop => stop.onfocus = () => stopAt(stop));
stopAt(stops[0]);
table.onkeydown = event => {
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -down, ArrowDown: down}[event.key];
  stops[stops.indexOf(event.target) + step]?.focus();
  if (step) event.preventDefault();
};

worker.postMessage({net, bytes: bytes(weights.join(""))});
radios[names.length - 1].focus({preventScroll: true});
radios[names.length - 1].click();
}
