"use strict";
(() => {
  const table = document.getElementById("strips"), body = table.tBodies[0];
  const headers = Array.from(table.querySelectorAll("thead th:not([colspan])"));
  const byId = id => document.getElementById(id);
  const [filter, verdict, shown] = ["filter", "verdict", "shown"].map(byId);
  const cells = column => Array.from(body.querySelectorAll("td:nth-child(" + (column + 1) + ")"));
  const lower = cell => cell.textContent.toLowerCase();
  const [files, kinds, verdicts, outcomes] = [0, 1, 2, 3].map(column => cells(column).map(lower));
  const rows = cells(0).map(cell => cell.parentElement);
  // Digits are padded, so that 9 comes before 10.
  const text = cell => lower(cell).replace(/\d+/g, digits => digits.padStart(15, "0"));
  const number = cell => Number(cell.dataset.value ?? cell.textContent);

  // Missing numbers come last in either direction; equal rows keep their order.
  function compare(isNumber, sign) {
    if (!isNumber) return (one, other) => sign * ((one.key > other.key) - (one.key < other.key));
    return (one, other) =>
      isNaN(one.key) - isNaN(other.key) || sign * (one.key - other.key) || 0;
  }

  function sortBy(header) {
    const column = headers.indexOf(header), isNumber = "number" in header.dataset;
    const before = header.ariaSort, first = isNumber ? "descending" : "ascending";
    const direction = before === first ? (isNumber ? "ascending" : "descending") : first;
    headers.forEach(each => { each.ariaSort = each === header ? direction : null; });
    const keyOf = isNumber ? number : text;
    const keyed = cells(column).map(cell => ({ row: cell.parentElement, key: keyOf(cell) }));
    keyed.sort(compare(isNumber, direction === "ascending" ? 1 : -1));
    keyed.forEach(({ row }) => body.append(row));
  }

  function apply() {
    const words = filter.value.toLowerCase().split(/\s+/), wanted = verdict.value.toLowerCase();
    let count = 0;
    rows.forEach((row, at) => {
      const searched = files[at] + "\n" + kinds[at];
      const isWanted = !wanted || verdicts[at] === wanted || outcomes[at] === wanted;
      const fits = isWanted && words.every(word => searched.includes(word));
      row.hidden = !fits;
      count += fits;
    });
    shown.textContent = count + " of " + rows.length + " {{ unit }}s";
  }

  headers.forEach(header => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => sortBy(header));
  });
  filter.addEventListener("input", apply);
  verdict.addEventListener("change", apply);
  document.querySelector(".controls").hidden = false;
  apply();
})();
(() => {
  const trial = document.getElementById("trial");
  if (!trial) return;
  const points = JSON.parse(trial.dataset.points);
  const [slider, flag, counts] = ["threshold", "flag", "counts"].map(id => document.getElementById(id));
  const chart = trial.previousElementSibling, line = chart.querySelector(".trial");
  const [strips, low, high, left, right] =
    ["strips", "low", "high", "left", "right"].map(name => Number(chart.dataset[name]));

  function show() {
    const [threshold, rejected, overkill, escaped, recall, falseAlarms] = points[slider.value];
    const logit = Math.max(-18, Math.min(18, Math.log(threshold / (1 - threshold))));
    const x = left + (logit - low) / (high - low) * (right - left);
    line.setAttribute("transform", "translate(" + x + " 0)");
    flag.textContent = "--threshold " + threshold;
    counts.textContent = [
      rejected + " NG", (strips - rejected) + " OK",
      overkill === null ? "" : overkill + " overkill",
      escaped === null ? "" : escaped + " escaped",
      recall === null ? "" : "recall " + recall,
      falseAlarms === null ? "" : falseAlarms + " false alarms per {{ unit }}",
    ].filter(Boolean).join(", ");
    slider.setAttribute("aria-valuetext", threshold + ": " + counts.textContent);
  }

  slider.max = points.length - 1;
  slider.value = slider.getAttribute("value");
  slider.addEventListener("input", show);
  trial.hidden = false;
  show();
})();
