// Searches the book's sections (BOOK, in searchdata.js) for what the reader types.
//
// A query is split at spaces; a section must hold every part as it stands. Chinese needs no words
// for that: any run of characters is found. Where no section holds them all, parts are cut into
// runs of two or more characters, and the sections that hold most of them are shown as near.
"use strict";

const SHOWN = 30;

// One character for one, so that places in the plain text are places in the text shown:
// lower case, full width as half width, × and * as x.
const plain = text => Array.from(text, c => {
  const p = c.normalize("NFKC").toLowerCase();
  return p.length === c.length ? p.replace(/[×✕*]/, "x") : c;
}).join("");

const sections = BOOK.map(s => ({...s, plainPage: plain(s.page), plainHeading: plain(s.heading),
  plainText: plain(s.text)}));

// A part as a pattern; a number is not found inside a longer one (1x1 in 11x11).
const pattern = part => new RegExp((/^\d/.test(part) ? "(?<![\\d.])" : "")
  + part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&") + (/\d$/.test(part) ? "(?!\\d)" : ""), "g");

// How well a section holds all parts as they stand: 0 for not at all. A part in the heading counts
// more than any number of them in the text.
function exact(section, parts) {
  let score = 0;
  for (const part of parts) {
    const count = text => (text.match(pattern(part)) ?? []).length;
    const inHeading = count(section.plainHeading);
    const inText = count(section.plainText);
    const inPage = count(section.plainPage);
    if (!inHeading && !inText && !inPage) return 0;
    if (inHeading) score += 1000 + 100 * part.length / section.plainHeading.length;
    if (inPage) score += 8;
    score += Math.min(inText, 10) + 5 * (inText > 0);
  }
  return section.chapter ? 2 * score : score;  // before the root page and the appendices
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
  const text = section.plainHeading + "\n" + section.plainText;
  const found = parts.flatMap(part => runs(text, part));
  const held = found.join("").length / parts.join("").length;
  const score = found.reduce((sum, run) =>
    sum + run.length ** 2 * (section.plainHeading.includes(run) ? 3 : 1), 0);
  return held >= 0.4 ? {score, found} : {score: 0, found};
}

function search(query) {
  const parts = [...new Set(plain(query).split(/\s+/).filter(Boolean))];
  if (!parts.length) return {results: [], isNear: false};
  let results = sections.map(section => ({section, found: parts, score: exact(section, parts)}));
  const isNear = !results.some(r => r.score > 0);
  if (isNear) results = sections.map(section => ({section, ...near(section, parts)}));
  results = results.filter(r => r.score > 0).sort((a, b) => b.score - a.score);
  return {results: isNear ? results.slice(0, 8) : results, isNear};
}

// The text around the first place found, from the start of its sentence where that is close.
function excerpt({section, found}) {
  const places = found.map(part => section.plainText.search(pattern(part))).filter(i => i >= 0);
  const at = places.length ? Math.min(...places) : 0;
  let start = Math.max(0, at - 40);
  const stop = section.text.slice(start, at).search(/[。！？；\n](?=[^。！？；]*$)/);
  if (stop >= 0) start += stop + 1;
  const end = Math.min(section.text.length, start + 120);
  return {start, end};
}

// Append text to an element with the parts found in it marked.
function mark(element, text, found) {
  const low = plain(text);
  const hits = found.flatMap(part => [...low.matchAll(pattern(part))].map(m => [m.index, part.length]));
  let done = 0;
  for (const [at, length] of hits.sort((a, b) => a[0] - b[0] || b[1] - a[1])) {
    if (at < done) continue;
    const hit = document.createElement("mark");
    hit.textContent = text.slice(at, at + length);
    element.append(text.slice(done, at), hit);
    done = at + length;
  }
  element.append(text.slice(done));
  return element;
}

function show(query) {
  const {results, isNear} = search(query);
  const list = document.getElementById("search-results");
  const root = document.documentElement.dataset.content_root;
  document.getElementById("search-summary").textContent =
    !query.trim() ? "输入要找的词，可以用空格隔开几个词。"
    : !results.length ? `没有找到“${query.trim()}”。换一个词，或者把词缩短些试试。`
    : isNear ? `没有一节同时包含“${query.trim()}”，下面是相近的内容：`
    : `找到${results.length}处` + (results.length > SHOWN ? `，下面是前${SHOWN}处：` : "：");
  list.replaceChildren(...results.slice(0, SHOWN).map(result => {
    const {section, found} = result;
    const item = document.createElement("li");
    const link = document.createElement("a");
    link.href = root + section.url;
    mark(link, section.heading, found);
    link.addEventListener("click", () => {
      try { localStorage.setItem("sphinx_highlight_terms", found.join(" ")); } catch { /* private window */ }
    });
    const page = document.createElement("span");
    page.className = "search-page";
    page.textContent = section.page;
    const text = document.createElement("p");
    const {start, end} = excerpt(result);
    if (start > 0) text.append("…");
    mark(text, section.text.slice(start, end), found);
    if (end < section.text.length) text.append("…");
    item.append(link);
    if (section.page !== section.heading) item.append(page);
    item.append(text);
    return item;
  }));
}

const field = document.querySelector(".bd-search-container input[name=q]");
field.value = new URLSearchParams(location.search).get("q") ?? "";
field.form.addEventListener("submit", event => { event.preventDefault(); show(field.value); });
field.addEventListener("input", event => event.isComposing || show(field.value));
field.addEventListener("compositionend", () => show(field.value));
field.focus();
show(field.value);
