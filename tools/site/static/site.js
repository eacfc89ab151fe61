// Paper shows what is folded on the screen: opens every <details> for printing, then folds it again.
"use strict";

let opened = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll(".bd-article details:not([open])")) {
    details.open = true;
    opened.push(details);
  }
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
  opened = [];
});
