// Searches the book's sections (BOOK, in searchdata.js) for what the reader types.
//
// A query is split at spaces; a section must hold every part as it stands. Chinese needs no words
// for that: any run of characters is found. Where no section holds them all, parts are cut into
// runs of two or more characters, and the sections that hold most of them are shown as near.
"use strict";

const SHOWN = 30;

// Words for one thing: the book's first, then those of other books and of readers.
const SYNONYMS = [
  ["池化", "汇聚"], ["批量归一化", "批量规范化", "批归一化", "批规范化"], ["暂退法", "丢弃法"],
  ["步幅", "步长"], ["精度", "准确率"], ["数据增广", "数据增强"], ["卷积核", "滤波器"],
  ["特征图", "特征映射"], ["内存不够", "显存不足", "显存不够", "内存不足", "爆显存", "显存爆了"],
  ["内核似乎挂掉了", "内核挂了", "内核死了", "内核崩溃"],
];
const ANY = new RegExp(SYNONYMS.flat().join("|"), "g");

// One character for one, so that places in the plain text are places in the text shown:
// lower case, full width as half width, × and * as x.
const plain = text => Array.from(text, c => {
  const p = c.normalize("NFKC").toLowerCase();
  return p.length === c.length ? p.replace(/[×✕*]/, "x") : c;
}).join("");

// prose before code, so that an excerpt shows prose where both hold the word
const sections = BOOK.map(s => ({...s, text: `${s.text} ${s.code}`.trim(), plainPage: plain(s.page),
  plainHeading: plain(s.heading), plainText: plain(s.text), plainCode: plain(s.code),
  plainAll: plain(`${s.text} ${s.code}`.trim())}));

// A part as a pattern. A number is not found inside a longer one (1x1 in 11x11), but for the digits
// after a point; a letter and a digit may have a hyphen between them (VGG-11).
const pattern = part => new RegExp((/^\d/.test(part) ? "(?<![\\d.])" : "")
  + part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")
    .replace(ANY, word => `(?:${SYNONYMS.find(words => words.includes(word)).join("|")})`)
    .replace(/([a-z])-?(?=\d)/g, "$1-?")
  + (/\d$/.test(part) && !/\.\d+$/.test(part) ? "(?!\\d)" : ""), "g");

const count = (text, found) => (text.match(found) ?? []).length;

// How well a section holds all patterns: 0 for not at all. One in the heading counts more than any
// number of them in the text, and code less than prose.
function exact(section, patterns) {
  let score = 0;
  for (const found of patterns) {
    const [inHeading, inPage, inText, inCode] =
      ["Heading", "Page", "Text", "Code"].map(name => count(section[`plain${name}`], found));
    if (!inHeading && !inPage && !inText && !inCode) return 0;
    if (inHeading) score += 1000 + 100 * section.plainHeading.match(found)[0].length
      / section.plainHeading.length;
    score += 8 * (inPage > 0) + Math.min(inText, 10) + 5 * (inText > 0) + 2 * (inCode > 0);
  }
  return score;
}

// The longest runs of a part that the text holds, each of two characters or more.
function runs(text, part) {
  const found = [];
  for (let i = 0; i < part.length - 1;) {
    let n = 1;
    while (i + n < part.length && text.includes(part.slice(i, i + n + 1))) n++;
    if (n > 1) found.push(part.slice(i, i + n));
    i += n > 1 ? n : 1;
  }
  return found;
}

function near(section, parts) {
  const text = `${section.plainHeading}\n${section.plainAll}`;
  const found = parts.flatMap(part => runs(text, part));
  const held = found.join("").length / parts.join("").length;
  const score = found.reduce((sum, run) =>
    sum + run.length ** 2 * (section.plainHeading.includes(run) ? 3 : 1), 0);
  return held >= 0.4 ? {score, found: found.map(pattern)} : {score: 0};
}

function search(query) {
  const parts = [...new Set(plain(query).split(/\s+/).filter(Boolean))];
  if (!parts.length) return {results: [], isNear: false};
  // A message, of three words and more, may have come with other numbers, and chapters do not go
  // before the appendices then.
  const isMessage = parts.filter(part => /^\W*[a-z]{2,}\W*$/.test(part)).length >= 3;
  const found = parts.filter(part => !isMessage || /^\D{2,}$/.test(part)).map(pattern);
  let results = sections.map(section => ({section, found,
    score: exact(section, found) * (section.chapter && !isMessage ? 2 : 1)}));
  const isNear = !results.some(r => r.score > 0);
  if (isNear) results = sections.map(section => ({section, ...near(section, parts)}));
  results = results.filter(r => r.score > 0).sort((a, b) => b.score - a.score);
  return {results: isNear ? results.slice(0, 8) : results, isNear};
}

// Where the text around the first place found starts.
function excerptStart({section, found}) {
  const starts = found.map(each => section.plainAll.search(each)).filter(i => i >= 0);
  return starts.length ? Math.max(0, Math.min(...starts) - 40) : 0;
}

// The places in a text that are found, [start, end], none over another.
function places(text, found) {
  const hits = found.flatMap(each => [...plain(text).matchAll(each)].map(
    hit => [hit.index, hit.index + hit[0].length]));
  let done = 0;
  return hits.sort((a, b) => a[0] - b[0] || b[1] - a[1])
    .filter(([start, end]) => start >= done && (done = end));
}

// Append text to an element with what is found in it marked.
function mark(element, text, found) {
  let done = 0;
  for (const [start, end] of places(text, found)) {
    const hit = document.createElement("mark");
    hit.textContent = text.slice(start, end);
    element.append(text.slice(done, start), hit);
    done = end;
  }
  element.append(text.slice(done));
  return element;
}

// As the page has them: what Sphinx marks there it looks for to the letter.
const asWritten = ({section, found}) => [...new Set([section.heading, section.text].flatMap(text =>
  places(text, found).map(([start, end]) => text.slice(start, end))))].join(" ");

function show(query) {
  const {results, isNear} = search(query);
  const root = document.documentElement.dataset.content_root;
  document.getElementById("search-summary").textContent =
    !query.trim() ? "输入要找的词，可以用空格隔开几个词。"
    : !results.length ? `没有找到“${query.trim()}”。换一个词，或者把词缩短些试试。`
    : isNear ? `没有一节同时包含“${query.trim()}”，下面是相近的内容：`
    : `找到${results.length}处` + (results.length > SHOWN ? `，下面是前${SHOWN}处：` : "：");
  document.getElementById("search-results").replaceChildren(...results.slice(0, SHOWN).map(result => {
    const {section, found} = result, start = excerptStart(result), end = start + 140;
    const [item, link, page, text] = ["li", "a", "span", "p"].map(n => document.createElement(n));
    link.href = root + section.url;
    mark(link, section.heading, found);
    link.addEventListener("click", () => {
      try { localStorage.setItem("sphinx_highlight_terms", asWritten(result)); } catch { /* private window */ }
    });
    page.className = "search-page";
    page.textContent = section.page;
    if (start > 0) text.append("…");
    mark(text, section.text.slice(start, end), found);
    if (end < section.text.length) text.append("…");
    item.append(link, ...section.page === section.heading ? [] : [page], text);
    return item;
  }));
}

const field = document.querySelector(".bd-search-container input[name=q]");
// What is typed goes into the address, where Back and a shared link find it.
function answer() {
  show(field.value);
  const address = new URL(location);
  address.searchParams.set("q", field.value);
  if (address.href !== location.href) history.replaceState(history.state, "", address);
}
field.value = new URLSearchParams(location.search).get("q") ?? "";
field.form.addEventListener("submit", event => { event.preventDefault(); answer(); });
field.addEventListener("input", event => event.isComposing || answer());
field.addEventListener("compositionend", answer);
field.focus();
show(field.value);
