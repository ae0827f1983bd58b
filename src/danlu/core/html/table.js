"use strict";
document.documentElement.classList.add("js");
for (const box of document.querySelectorAll(".filter-table")) {
  const body = box.querySelector("tbody");
  const rows = [...body.rows];
  const search = box.querySelector("input");
  const empty = box.querySelector(".empty");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  let wanted = "";
  const show = () => {
    const words = search ? search.value.toLowerCase().trim() : "";
    let shown = 0;
    for (const row of rows) {
      const fits = (!wanted || row.dataset.tags.split(" ").includes(wanted)) && texts.get(row).includes(words);
      row.hidden = !fits;
      shown += fits;
    }
    empty.hidden = shown > 0;
  };
  if (search) search.addEventListener("input", show);
  const filters = [...box.querySelectorAll(".controls button")];
  for (const button of filters) {
    button.addEventListener("click", () => {
      wanted = button.dataset.tag;
      for (const other of filters) other.setAttribute("aria-pressed", String(other === button));
      show();
    });
  }
  for (const button of box.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of box.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[button.dataset.column].dataset.key ?? row.cells[button.dataset.column].textContent;
      const order = (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true }) * (up ? 1 : -1);
      body.append(...[...rows].sort(order));
    });
  }
}
