// Shapes that answer: a field over an architecture figure changes the side of its input, and the
// figure is computed anew. The figure brings what is needed: `data-net` on the <svg> has the layers
// with their rules (d2lmini/figures/layers.py), `data-of` on its parts tells which layers they are
// about. Nothing here knows a network, and without this script the figures are what they are.
"use strict";
{
const LARGEST = 1024; // side of the input

// --- what layers make of shapes: torch's arithmetic ----------------------------------------------
const both = size => Array.isArray(size) ? size : [size, size];
const product = sizes => sizes.reduce((a, b) => a * b, 1);
const times = sizes => sizes.join("×");
const refuse = (arrives, takes) => ({ends: `送来${grouped(arrives)}个，接${grouped(takes)}个`});

// Windows of a convolution or pooling along rows and columns, with `flops` for each place.
// `unused`: the rows and columns at the end that no window reaches.
function slide({k, s = 1, p = 0, d = 1, ceil}, [, ...size], channels, flops) {
  if (p === "same") return {shape: [channels, ...size], flops: flops * product(size)};
  [k, s, p, d] = [k, s, p, d].map(both);
  const reach = k.map((n, i) => d[i] * (n - 1) + 1);
  const padded = size.map((n, i) => n + 2 * p[i]);
  const out = padded.map((n, i) => {
    const count = Math.floor((n - reach[i] + (ceil ? s[i] - 1 : 0)) / s[i]) + 1;
    // in ceil mode too, no window starts in the padding at the end
    return ceil && (count - 1) * s[i] >= size[i] + p[i] ? count - 1 : count;
  });
  if (Math.min(...out) < 1)
    return {ends: `窗口${times(reach)}大于${times(padded)}${Math.max(...p) ? "（含填充）" : ""}`};
  const unused = size.map((n, i) => Math.max(0, n + p[i] - (out[i] - 1) * s[i] - reach[i]));
  return {shape: [channels, ...out], flops: flops * product(out), unused};
}

// (layer, shapes that it takes) -> {shape, ...} or {ends: why}. FLOPs count a multiply-add as two
// and no bias; `params` is there where it is not the layer's own number.
const RULES = {
  conv: (layer, [x]) => slide(
    layer, x, layer.o, 2 * product(both(layer.k)) * x[0] / (layer.g ?? 1) * layer.o),
  pool: (layer, [x]) => slide(layer, x, x[0], 0),
  adapt: ({o}, [x]) => ({shape: [x[0], ...both(o).map((n, i) => n ?? x[i + 1])]}),
  fc({i, o, w, tied}, [x]) {
    const features = x[x.length - 1];
    const made = {shape: [...x.slice(0, -1), o], flops: 2 * product(x) * o};
    if (features === i) return made;
    if (tied || x.length > 1) return refuse(features, i);
    return {...made, params: w + (features - i) * o, arrives: features}; // with other weights
  },
  flat: (_, [x]) => ({shape: [product(x)]}),
  same: ({n}, [x]) => n && n !== x[0] ? refuse(x[0], n) : {shape: x},
  cat(_, shapes) {
    const sizes = [...new Set(shapes.map(([, ...size]) => times(size)))];
    if (sizes.length > 1) return {ends: `大小不同：${sizes.join("、")}`};
    return {shape: [shapes.reduce((sum, [n]) => sum + n, 0), ...shapes[0].slice(1)]};
  },
  add({into}, [x, y]) { // where one has 1 and the other n, the one is repeated
    const fits = x.every((n, i) => n === y[i] || (n === 1 && !into) || y[i] === 1);
    if (!fits || x.length !== y.length) return {ends: `大小不同：${times(x)}、${times(y)}`};
    return {shape: x.map((n, i) => Math.max(n, y[i]))};
  },
};

const sum = (layers, key) => layers.reduce((total, layer) => total + layer[key], 0);

// What each layer makes, by number (0 is the input), and the sums. A layer has no shape where data
// end, nor where none arrive.
function compute(net, side) {
  const made = [{shape: [net.c, side, side], params: net.w ?? 0, flops: 0}];
  for (const layer of net.layers) {
    const shapes = (layer.from ?? [made.length - 1]).map(number => made[number].shape);
    const result = shapes.includes(undefined) ? {} : RULES[layer.op](layer, shapes);
    made.push({params: layer.w ?? 0, flops: 0, takes: layer.i, ...result});
  }
  const passes = made.every(layer => layer.shape);
  return {made, passes, params: sum(made, "params"), flops: sum(made, "flops")};
}

// --- numbers as text, as d2lmini/figures/style.py writes them ------------------------------------
// With so many digits after the point; a half goes to the even digit, as in Python.
function fixed(number, digits) {
  const exact = number.toFixed(20), cut = exact.slice(0, exact.indexOf(".") + digits + !!digits);
  const half = /^\.?50*$/.test(exact.slice(cut.length)) && /[02468]$/.test(cut);
  return (half ? cut : number.toFixed(digits)).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

const grouped = number => fixed(number, 0);
const megaflops = n => n < 1e5 ? `${grouped(n)} FLOPs` : `${fixed(n / 1e6, n < 1e7 ? 2 : 0)} MFLOPs`;

const share = (part, whole, percent = whole && 100 * part / whole) =>
  percent > 0 && percent < 0.05 ? "<0.1%" : percent ? `${fixed(percent, 1)}%` : "0%";

// --- a column of a figure: one network -----------------------------------------------------------
class Column {
  constructor(svg) {
    this.svg = svg;
    this.net = JSON.parse(svg.dataset.net);
    this.words = svg.getAttribute("aria-description");
    this.texts = [...svg.querySelectorAll("text[data-of]")];
    this.boxes = [...svg.querySelectorAll("g[data-of]")].map(box => ({
      box, drawn: box.getAttribute("aria-label").split("；"), of: box.dataset.of.split(" ").map(Number),
    }));
    this.addField();
    this.show(this.net.side);
  }

  addField() {
    const frame = document.createElement("div");
    frame.innerHTML = `<div class="shapes-field"><label><span class="shapes-unseen"></span>输入边长
      <input type="number" min="1" max="${LARGEST}" required autocomplete="off"></label>
      <button type="button" title="复原为${this.net.side}">复原</button></div>
      <div class="shapes-status" role="status"></div>`;
    frame.className = "shapes-column";
    frame.style.cssText = this.svg.style.cssText; // what stands in the figure's row is now the frame
    this.svg.replaceWith(frame);
    frame.append(this.svg);
    const [unseen, input, button, status] = frame.querySelectorAll("span, input, button, [role]");
    unseen.textContent = `${this.svg.dataset.name}的`;
    Object.assign(this, {input, status});
    this.input.value = this.net.side;
    this.input.addEventListener("input", () => this.answer());
    this.input.addEventListener("wheel", () => this.input.blur()); // which would turn the number
    this.input.addEventListener("change", () => this.ask(this.side)); // what cannot be, goes
    button.addEventListener("click", () => {
      this.input.focus(); // the button hides itself
      this.ask(this.net.side);
    });
  }

  ask(side) {
    const before = this.input.value;
    this.input.value = side;
    if (before !== this.input.value) this.answer();
  }

  answer() {
    const {valid} = this.input.validity;
    this.input.setAttribute("aria-invalid", !valid);
    if (valid) this.status.replaceChildren(...this.show(this.input.valueAsNumber));
    else this.status.textContent = `填1到${LARGEST}的整数`;
    keepInAddress();
  }

  // Compute and write the figure; return what there is to say: for the ear, and for all.
  show(side) {
    this.side = side;
    this.svg.parentElement.classList.toggle("shapes-changed", side !== this.net.side);
    const all = compute(this.net, side), {made, passes} = all;
    for (const box of this.boxes) write(box, all);
    const total = passes ? `${grouped(all.params)}个参数 · ${megaflops(all.flops)}` : "—";
    for (const text of this.texts) {
      const shape = made[text.dataset.of]?.shape, what = text.textContent.match(/^输[入出]|/)[0];
      text.textContent = text.dataset.of === "total" ? total : what + (shape ? times(shape) : "—");
      text.classList.toggle("shapes-out", !shape && !passes);
    }
    const [start, end] = this.texts.map(text => text.textContent).filter(text => /^输/.test(text));
    const words = this.words.replace(/：输入[\d×]+/, `：${start}`)
      .replace(/；输出[^；]*$/, `；${end}。共${total}。`);
    this.svg.setAttribute("aria-description", words);
    const ends = made.find(layer => layer.ends), other = ends ?? made.find(layer => layer.arrives);
    const box = this.boxes.find(({box, of}) => box.dataset.kind && of.includes(made.indexOf(other)));
    const label = box?.box.dataset.name ?? "网络中的一层";
    const unseen = document.createElement("span");
    unseen.className = "shapes-unseen";
    unseen.textContent = `${start}，${end}，${ends ? ends.ends : `共${total}`}。`;
    return [unseen, ends ? `到${label}为止` : other ? `${label}要换权重` : ""];
  }
}

// Write what a box or frame tells of its layers: its label, which site.js shows, outline, mark.
function write({box, drawn, of}, {made, passes, params, flops}) {
  const layers = of.map(number => made[number]), {shape} = layers[layers.length - 1];
  const [ownParams, ownFlops] = [sum(layers, "params"), sum(layers, "flops")];
  const ends = layers.find(layer => layer.ends)?.ends;
  const {arrives, takes} = layers.find(layer => layer.arrives) ?? {};
  const unused = [...new Set(layers.filter(layer => layer.unused?.some(n => n))
    .map(({unused: [rows, columns]}) => `${rows}行${columns}列`))].join("，");
  const part = (name, n, whole) => name + grouped(n) + (passes ? `，占${share(n, whole)}` : "");
  const lines = drawn.slice(0, -3);
  if (ends) lines.push("到此为止：", ends);
  else if (!shape) lines.push("数据到不了这里");
  else lines.push(`输出${times(shape)}`, part("参数", ownParams, params),
    part("FLOPs ", ownFlops, flops));
  if (unused) lines.push(`最后${unused}没有用到`);
  if (arrives) lines.push(`送来${grouped(arrives)}个特征，`, `权重接${grouped(takes)}个：要换权重`);
  box.setAttribute("aria-label", lines.join("；"));
  box.classList.toggle("shapes-out", !shape && !ends);
  if (!box.dataset.kind) return; // a frame has no more
  Object.assign(box.dataset, {shape: times(shape ?? []), params: ownParams, flops: ownFlops});
  box.classList.toggle("shapes-end", !!ends);
  box.classList.toggle("shapes-other", !!arrives);
  box.querySelector(".shapes-mark")?.remove();
  const mark = ends ?? (arrives ? `送来${grouped(arrives)}，接${grouped(takes)}` : unused && `余${unused}`);
  if (!mark) return;
  const {x, y, width, height} = box.querySelector(".d2lm-edge").getBBox(), middle = x + width / 2;
  box.insertAdjacentHTML("beforeend", // left of the arrow
    `<text class="shapes-mark" x="${middle - 8}" y="${y + height + 12}" text-anchor="end">${mark}</text>`);
  const text = box.lastChild;
  if (!ends || text.getComputedTextLength() <= width / 2 - 8) return;
  text.setAttribute("x", middle); // a reason longer than half the box stands across it
  text.setAttribute("text-anchor", "middle");
}

// --- the page's figures, and its address ---------------------------------------------------------
// The address keeps the sides of figures that were changed; of the page's second: ?fig2=28,96
const figures = [...document.querySelectorAll("figure:has(svg[data-net])")].map((figure, i) => ({
  figure,
  key: `fig${i + 1}`,
  columns: [...figure.querySelectorAll("svg[data-net]")].map(svg => new Column(svg)),
}));

let later;
function keepInAddress() {
  clearTimeout(later);
  later = setTimeout(() => {
    const address = new URL(location);
    for (const {key, columns} of figures) {
      if (columns.every(({side, net}) => side === net.side)) address.searchParams.delete(key);
      else address.searchParams.set(key, columns.map(column => column.side).join(","));
    }
    address.search = address.search.replaceAll("%2C", ",");
    history.replaceState(history.state, "", address);
  }, 200);
}

for (const {figure, key, columns} of figures) {
  const asked = new URLSearchParams(location.search).get(key)?.split(",");
  if (!asked) continue;
  columns.forEach((column, i) => {
    if (asked[i] >= 1 && asked[i] <= LARGEST) column.ask(Math.trunc(asked[i]));
  });
  if (!location.hash) figure.scrollIntoView({behavior: "instant"});
}
}
