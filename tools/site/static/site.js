// What figures do beside the theme: those of architectures tell a box's facts in a tip and take one
// tab stop each; one too wide for its column can be scrolled to.
"use strict";
{
// --- a figure's words: each once ------------------------------------------------------------------
// In a notebook, where no script runs, a figure says on pointing what it knows, in <title>s. Here
// these would be a second tooltip, and a second reading for the ear.
const BOX = ".d2lm-box";
const take = (element, name) => {
  const child = element.querySelector(`:scope > ${name}`);
  child?.remove();
  return child?.textContent;
};

for (const svg of document.querySelectorAll("figure svg[role]")) {
  const title = take(svg, "title"), words = take(svg, "desc") ?? svg.getAttribute("aria-label");
  svg.removeAttribute("aria-labelledby"); // charts recorded earlier have their words in <desc>
  if (!svg.matches(".d2lm")) { // a chart: the caption stands under it
    svg.setAttribute("aria-label", words);
    continue;
  }
  svg.dataset.name = title;
  svg.setAttribute("aria-label", `${title}的结构，方向键逐层查看`);
  svg.setAttribute("aria-description", words);
  for (const box of svg.querySelectorAll(BOX)) {
    const facts = take(box, "title");
    box.dataset.name = facts.split("\n")[0];
    box.setAttribute("aria-label", facts.replaceAll("\n", "；"));
  }
}

// --- the keyboard: one stop a figure, arrow keys from box to box ----------------------------------
for (const figure of document.querySelectorAll("figure")) {
  const boxes = [...figure.querySelectorAll(BOX)];
  const stopAt = stop => boxes.forEach(box => box.setAttribute("tabindex", box === stop ? 0 : -1));
  stopAt(boxes[0]);
  figure.addEventListener("focusin", ({target}) => boxes.includes(target) && stopAt(target));
  figure.addEventListener("keydown", event => {
    const at = boxes.indexOf(event.target), last = boxes.length - 1;
    const to = {ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1,
      Home: 0, End: last}[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    boxes[Math.max(0, Math.min(to, last))].focus();
  });
  if (boxes.length) figure.removeAttribute("tabindex");
  else new ResizeObserver(() => { // what is cut off is scrolled to
    if (figure.scrollWidth > figure.clientWidth) figure.tabIndex = 0;
    else figure.removeAttribute("tabindex");
  }).observe(figure);
}

// --- the tip: a box's facts beside it -------------------------------------------------------------
const tip = document.createElement("div");
tip.className = "figure-tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true"); // the box's own label says it
document.body.append(tip);
let about, leaving;

function tell(box) {
  leaving = clearTimeout(leaving);
  if (box === about) return; // also where Esc has put the tip away
  about = box;
  tip.hidden = !box;
  if (!box) return;
  tip.textContent = box.getAttribute("aria-label").replaceAll("；", "\n");
  place();
}

// Above the box or, for lack of room, below; the pointer gets from one to the other.
function place() {
  if (tip.hidden) return;
  const {left, top, bottom} = about.getBoundingClientRect(), {offsetWidth, offsetHeight} = tip;
  const bar = document.querySelector(".bd-header-article")?.getBoundingClientRect().bottom ?? 0;
  const y = top - offsetHeight > Math.max(bar, 0) ? top - offsetHeight : bottom;
  const x = Math.max(4, Math.min(left, document.documentElement.clientWidth - offsetWidth - 4));
  tip.style.translate = `${x + scrollX}px ${y + scrollY}px`;
}

const boxAt = element => element?.closest?.(BOX) ?? null;
addEventListener("mousemove", ({target}) => { // not "mouseover", which what a tip uncovers gets, too
  if (boxAt(target)) tell(boxAt(target));
  else if (tip.contains(target)) leaving = clearTimeout(leaving);
  else if (about) leaving ??= setTimeout(() => tell(boxAt(document.activeElement)), 200);
});
addEventListener("focusin", ({target}) => tell(boxAt(target)));
addEventListener("focusout", () => tell(null));
addEventListener("keydown", ({key}) => { if (key === "Escape") tip.hidden = true; });
addEventListener("scroll", place, true);
}
