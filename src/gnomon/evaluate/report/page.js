// A heading sorts its column: numbers from the highest, names from the first; once more, the other way round.
"use strict";
const table = document.getElementById("table");
const names = new Intl.Collator(undefined, { numeric: true });

function compare(a, b, number) {
  return number ? a - b : names.compare(a, b);
}

function sort(heading) {
  const number = heading.dataset.type === "number";
  const order = number ? ["descending", "ascending"] : ["ascending", "descending"];
  const wanted = heading.getAttribute("aria-sort") === order[0] ? order[1] : order[0];
  const sign = wanted === "ascending" ? 1 : -1;
  const value = (body) => body.rows[0].cells[heading.cellIndex].dataset.value;
  const bodies = [...table.tBodies].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (left === undefined || right === undefined) return (left === undefined) - (right === undefined); // unknown: last
    return sign * compare(left, right, number);
  });
  for (const each of heading.parentNode.cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", wanted);
  const after = table.tFoot;
  for (const body of bodies) table.insertBefore(body, after);
}

for (const heading of table.tHead.rows[0].cells) {
  heading.firstElementChild.addEventListener("click", () => sort(heading));
}
