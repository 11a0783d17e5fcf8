
const shown = cell => cell.dataset.v ?? [...cell.childNodes].map(part => part.nodeName == "SMALL" ? "" : part.textContent).join("").trim();
const bare = text => text.replace(/[\s,%+≥≤=]/g, "").replace("−", "-");
document.querySelectorAll("main table:not([data-fixed])").forEach(table => table.querySelectorAll("thead th:not([data-fixed])").forEach((head, i) => {
  const rows = [...table.tBodies[0].rows], told = rows.map(row => row.cells[i] ? shown(row.cells[i]) : "");
  if (rows.length < 2 || !head.textContent.trim() || head.querySelector(".sr")) return;
  const number = head.classList.contains("num") || told.every(text => text == "–" || !isNaN(bare(text)));
  const key = new Map(rows.map((row, n) => [row, number ? parseFloat(bare(told[n])) : told[n]])), last = row => Number.isNaN(key.get(row));
  const button = document.createElement("button"); button.append(...head.childNodes); head.append(button);
  button.onclick = () => {
    const up = head.getAttribute("aria-sort") != "ascending", way = up ? 1 : -1;
    table.querySelectorAll("th[aria-sort]").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...rows.sort((a, b) => last(a) - last(b) || (key.get(a) < key.get(b) ? -way : key.get(a) > key.get(b) ? way : 0)));
  }; }));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => part.open = true));
