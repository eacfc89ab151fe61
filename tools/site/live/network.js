// A trained network in plain JavaScript: the layers that its drawing carries, as d2lmini/figures/
// layers.py has them, and the weights of a file of tools/weights.py. Arrays are channels first. What
// changes no shape is not told there: here `same` is ReLU, and `pool` takes the largest.
"use strict";
function liveNetwork() {
const product = sizes => sizes.reduce((a, b) => a * b, 1);
const mean = numbers => numbers.reduce((a, b) => a + b, 0) / numbers.length;
const split = ({data, shape: [channels, ...size]}, area = product(size)) =>
  Array.from({length: channels}, (_, i) => data.subarray(i * area, (i + 1) * area)); // by channel

// The tensors of a file in its order, each filled up with zeros to a multiple of 4 along its rows.
function unpack(bytes) {
  const start = 4 + new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, start)));
  return head.map(({shape: [rows, ...row], dtype, offset, scales}) => {
    const length = product(row), numbers = new Float32Array(Math.ceil(rows / 4) * 4 * length);
    const type = dtype === "int8" ? Int8Array : Float32Array;
    numbers.set(new type(bytes.buffer, start + offset, rows * length));
    return scales ? numbers.map((n, i) => n * (scales[Math.floor(i / length)] ?? 0)) : numbers;
  });
}

// The windows of an input, one after another, each with its channels × k × k numbers.
function windows({data, shape: [channels, height, width]}, {k, s = 1, p = 0}, outside) {
  const [rows, columns] = [height, width].map(side => Math.floor((side + 2 * p - k) / s) + 1);
  const places = rows * columns; // made even, as `multiply` takes two at a time
  const found = new Float32Array((places + places % 2) * channels * k * k).fill(outside);
  for (let at = 0, place = 0; place < places; place++) {
    const top = Math.floor(place / columns) * s - p, left = place % columns * s - p;
    for (let channel = 0; channel < channels; channel++)
      for (let y = top; y < top + k; y++)
        for (let x = left; x < left + k; x++, at++)
          if (y >= 0 && y < height && x >= 0 && x < width)
            found[at] = data[(channel * height + y) * width + x];
  }
  return {found, rows, columns, places};
}

// For each output and window the sum of products: four outputs and two windows at a time, so that
// a number that has been fetched is used more than once.
function multiply(weight, bias, found, outputs, places) {
  const row = found.length / (places + places % 2);
  const made = new Float32Array(Math.ceil(outputs / 4) * 4 * places);
  for (let place = 0; place < places; place += 2) {
    for (let o = 0; o < outputs; o += 4) {
      let a = bias[o], b = bias[o + 1], c = bias[o + 2], d = bias[o + 3], e = a, f = b, g = c, h = d;
      let k = o * row, l = k + row, m = l + row, n = m + row;
      for (let i = place * row, j = i + row, end = j; i < end; i++, j++) {
        const u = found[i], v = found[j];
        const w = weight[k++], x = weight[l++], y = weight[m++], z = weight[n++];
        a += u * w; b += u * x; c += u * y; d += u * z;
        e += v * w; f += v * x; g += v * y; h += v * z;
      }
      const sums = place + 1 < places ? [a, b, c, d, e, f, g, h] : [a, b, c, d];
      sums.forEach((sum, i) => made[(o + i % 4) * places + place + (i >> 2)] = sum);
    }
  }
  return made.subarray(0, outputs * places);
}

const RULES = {
  conv({tensors: [weight, bias], o, ...layer}, [input]) {
    const {found, rows, columns, places} = windows(input, layer, 0);
    return {data: multiply(weight, bias, found, o, places), shape: [o, rows, columns]};
  },
  pool({k, ...layer}, [input]) {
    const {found, rows, columns, places} = windows(input, {k, ...layer}, -Infinity);
    const [channels] = input.shape, data = new Float32Array(channels * places).fill(-Infinity);
    for (let at = 0; at < data.length * k * k; at++) {
      const channel = Math.floor(at / k / k) % channels, place = Math.floor(at / k / k / channels);
      data[channel * places + place] = Math.max(data[channel * places + place], found[at]);
    }
    return {data, shape: [channels, rows, columns]};
  },
  adapt: (_, [input]) => ({data: Float32Array.from(split(input), mean), shape: [input.shape[0], 1, 1]}),
  fc: (layer, [{data}]) => ({shape: [layer.o],
    data: RULES.conv({...layer, k: 1}, [{data, shape: [data.length, 1, 1]}]).data}),
  flat: (_, [{data}]) => ({data, shape: [data.length]}),
  same: (_, [{data, shape}]) => ({data: data.map(n => n > 0 ? n : 0), shape}),
  cat: (_, inputs) => ({data: Float32Array.from(inputs.flatMap(({data}) => [...data])),
    shape: [inputs.reduce((n, {shape}) => n + shape[0], 0), ...inputs[0].shape.slice(1)]}),
};

// Rows of grey values enlarged, and the image turned over its diagonal: twice makes it whole. To
// PIL's very pixels (d2lmini/data.py, `_pil_taps`): shares have 22 bits after the point.
function enlarge(pixels, from, to) {
  const rows = pixels.length / from, made = new Uint8Array(rows * to);
  for (let x = 0; x < to; x++) {
    const place = (x + 0.5) * from / to - 0.5, low = Math.floor(place);
    const taps = [[low, low + 1 - place], [low + 1, place - low]].map(([i, share]) =>
      [Math.min(Math.max(i, 0), from - 1), Math.floor(share * 2 ** 22 + 0.5)]);
    for (let y = 0; y < rows; y++)
      made[x * rows + y] = taps.reduce((sum, [i, n]) => sum + n * pixels[y * from + i], 2 ** 21) >> 22;
  }
  return made;
}

class Network {
  constructor({side, layers}, bytes) {
    const tensors = unpack(bytes); // a weight and a bias for each layer that has any
    const own = layers.map(({w, ...layer}) => ({...layer, tensors: w ? tensors.splice(0, 2) : []}));
    Object.assign(this, {side, layers: [null, ...own], off: [], made: []}); // outputs, by layer
  }

  // The scores of a square grey image, or for null of the last one. off: the inputs of layers that
  // are to be zero, "22.0" for the first of layer 22. after: is given each layer's number. Only
  // what may differ from the last run is computed.
  run(pixels, off = [], after = () => {}) {
    const differ = [...off, ...this.off].filter(i => off.includes(i) !== this.off.includes(i));
    if (pixels) {
      const from = Math.sqrt(pixels.length), shape = [1, this.side, this.side];
      this.image = enlarge(enlarge(pixels, from, this.side), from, this.side);
      this.made[0] = {data: Float32Array.from(this.image, n => n / 255), shape};
    }
    this.off = off;
    const first = pixels ? 1 : Math.min(...differ.map(input => parseInt(input)));
    for (let n = first; n < this.layers.length; n++) {
      const inputs = (this.layers[n].from ?? [n - 1]).map((from, i) => off.includes(`${n}.${i}`)
        ? {...this.made[from], data: this.made[from].data.map(() => 0)} : this.made[from]);
      this.made[n] = RULES[this.layers[n].op](this.layers[n], inputs);
      after(n);
    }
    return this.made.at(-1).data;
  }

  // Of each size of maps the last layer, with the `count` maps that vary most, black to white each,
  // as `show_feature_maps` chooses them.
  maps(count) {
    const last = new Map(this.made.slice(1).map(({shape}, i) => [shape[1] ?? 1, i + 1]));
    return [...last].filter(([side]) => side > 1).map(([side, layer]) => {
      const maps = split(this.made[layer]), means = maps.map(mean);
      const spread = maps.map((map, i) => mean(map.map(n => (n - means[i]) ** 2)));
      const chosen = [...maps.keys()].sort((a, b) => spread[b] - spread[a]).slice(0, count);
      const tiles = chosen.sort((a, b) => a - b).map(i => maps[i]).map(map => {
        const low = Math.min(...map), range = Math.max(...map) - low || 1;
        return Uint8Array.from(map, n => Math.round(255 * (n - low) / range));
      });
      return {layer, shape: this.made[layer].shape, tiles};
    });
  }
}

// In a worker: the first message brings the network, the others a picture and what is off.
let network, normal;
function answer({data: {net, bytes, pixels, off}}) {
  const after = done => postMessage({done});
  if (net) return network = new Network(net, bytes);
  if (pixels) normal = network.run(pixels, [], after);
  const scores = network.run(null, off, after);
  postMessage({scores, normal, image: network.image, maps: network.maps(8)});
}
return {Network, answer};
}
