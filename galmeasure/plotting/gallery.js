"use strict";
// All texts of the data reach the page as text nodes or attributes, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;
const state = { sort: null, descending: false, filters: new Map(), flags: new Map(), page: 0, all: false };
const flagColumn = data.columns.findIndex((column) => column.kind === "flags");

function element(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function shownColumns() {
  return data.columns.map((column, index) => index).filter((index) => state.all || data.columns[index].first);
}

// A test of a value for a text such as ">5", "<=2", "1..3", "!=nan"; null where the text cannot be read.
function numberTest(text) {
  const range = text.match(/^\s*(\S+)\s*\.\.\s*(\S+)\s*$/);
  if (range) {
    const [low, high] = [Number(range[1]), Number(range[2])];
    return Number.isNaN(low) || Number.isNaN(high) ? null : (value) => value !== null && value >= low && value <= high;
  }
  const match = text.match(/^\s*(<=|>=|!=|<|>|=)?\s*(\S+)\s*$/);
  if (!match) return null;
  const sign = match[1] || "=";
  if (match[2].toLowerCase() === "nan") {
    if (sign === "=") return (value) => value === null;
    return sign === "!=" ? (value) => value !== null : null;
  }
  const number = Number(match[2]);
  if (Number.isNaN(number)) return null;
  const tests = {
    "<": (value) => value < number, ">": (value) => value > number, "<=": (value) => value <= number,
    ">=": (value) => value >= number, "=": (value) => value === number, "!=": (value) => value !== number,
  };
  return (value) => value !== null && tests[sign](value);
}

function testOf(column, text) {
  if (column.kind === "number") return numberTest(text);
  const wanted = text.toLowerCase();
  const words = (value) => column.kind === "flags" ? flagNames(value).join(" ") : String(value ?? "");
  return (value) => words(value).toLowerCase().includes(wanted);
}

function flagNames(value) {
  return data.flags.filter((flag) => Math.floor(value / flag.value) % 2 === 1).map((flag) => flag.name);
}

function compare(a, b, kind) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (kind === "text") return String(a).localeCompare(String(b), undefined, { numeric: true });
  return a - b;
}

function chosenRows() {
  const tests = [];
  for (const [index, text] of state.filters) {
    const test = testOf(data.columns[index], text);
    if (test) tests.push((row) => test(row[index]));
  }
  for (const [value, wish] of state.flags) {
    tests.push((row) => (Math.floor(row[flagColumn] / value) % 2 === 1) === (wish === "with"));
  }
  const rows = data.rows.map((row, index) => index).filter((index) => tests.every((test) => test(data.rows[index])));
  if (state.sort !== null) {
    const kind = data.columns[state.sort].kind;
    const sign = state.descending ? -1 : 1;
    rows.sort((i, j) => {
      const [a, b] = [data.rows[i][state.sort], data.rows[j][state.sort]];
      // what has no number stands at the end in both directions
      return a === null || b === null ? compare(a, b, kind) : sign * compare(a, b, kind);
    });
  }
  return rows;
}

function formatted(value, column) {
  if (value === null) return column.kind === "number" ? "nan" : "";
  if (column.kind !== "number" || Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : String(Number(value.toPrecision(5)));
}

function cell(value, column) {
  if (column.kind === "flags") {
    const names = flagNames(value).map((name) => element("span", { className: "flag", textContent: name }));
    return element("td", { className: "text flags" }, ...names);
  }
  const text = formatted(value, column);
  const name = column.kind === "text" ? "text id" : "";
  return element("td", { className: name, textContent: text, title: column.kind === "text" ? text : "" });
}

function drawHead() {
  const line = element("tr", {}, element("th", { className: "text" }, "data, model, residual"));
  for (const index of shownColumns()) {
    const column = data.columns[index];
    const sorted = state.sort === index ? (state.descending ? " ▼" : " ▲") : "";
    const button = element("button", { type: "button", title: column.description, textContent: column.name + sorted });
    button.addEventListener("click", () => {
      state.descending = state.sort === index && !state.descending;
      state.sort = index;
      state.page = 0;
      drawHead();
      drawBody();
    });
    const input = element("input", {
      value: state.filters.get(index) ?? "", placeholder: column.kind === "number" ? ">0 or 1..3" : "contains",
      "aria-label": `filter ${column.name}`,
    });
    const note = () => {
      const text = state.filters.get(index);
      input.classList.toggle("wrong", text !== undefined && testOf(column, text) === null);
    };
    input.addEventListener("input", () => {
      if (input.value.trim()) state.filters.set(index, input.value.trim());
      else state.filters.delete(index);
      state.page = 0;
      note();
      drawBody();
    });
    note();
    const order = state.sort === index ? (state.descending ? "descending" : "ascending") : "none";
    line.append(element("th", { className: column.kind === "number" ? "" : "text", "aria-sort": order },
      button, element("small", { textContent: column.unit || "\u00a0" }), input));
  }
  document.querySelector("thead").replaceChildren(line);
}

function drawBody() {
  const rows = chosenRows();
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  state.page = Math.min(state.page, pages - 1);
  const columns = shownColumns();
  const lines = rows.slice(state.page * PAGE, (state.page + 1) * PAGE).map((index) => {
    const row = data.rows[index];
    const alt = `data, model and residual of ${row[0]}`;
    const image = element("img", { src: data.images[index], alt });
    image.addEventListener("click", () => enlarge(image.src, alt));
    return element("tr", {}, element("td", {}, image), ...columns.map((c) => cell(row[c], data.columns[c])));
  });
  if (!lines.length) {
    lines.push(element("tr", {}, element("td", { className: "empty text", colSpan: columns.length + 1 },
      "No galaxy passes all filters.")));
  }
  document.querySelector("tbody").replaceChildren(...lines);
  document.getElementById("count").textContent =
    `${rows.length} of ${data.rows.length} galaxies, page ${state.page + 1} of ${pages}`;
  document.getElementById("back").disabled = state.page === 0;
  document.getElementById("next").disabled = state.page === pages - 1;
}

function enlarge(source, alt) {
  const dialog = document.querySelector("dialog");
  dialog.querySelector("img").src = source;
  dialog.querySelector("img").alt = alt;
  dialog.querySelector("p").textContent = alt;
  dialog.showModal();
}

function drawFlags() {
  const chips = data.flags.map((flag) => {
    const chip = element("button", { className: "chip", type: "button", title: flag.description });
    const write = () => {
      const wish = state.flags.get(flag.value) ?? "any";
      chip.dataset.state = wish;
      chip.textContent = `${flag.name} (${flag.count})`;
      chip.setAttribute("aria-label", `${flag.name}: ${wish}`);
    };
    chip.addEventListener("click", () => {
      const next = { undefined: "with", with: "without", without: undefined }[state.flags.get(flag.value)];
      if (next) state.flags.set(flag.value, next);
      else state.flags.delete(flag.value);
      state.page = 0;
      write();
      drawBody();
    });
    write();
    return chip;
  });
  const text = chips.length ? "Flags; click for those with it, again for those without:" : "No galaxy has a flag.";
  document.getElementById("flags").replaceChildren(element("span", {}, text), ...chips);
}

function turn(step) {
  state.page += step;
  drawBody();
  window.scrollTo(0, 0);
}

document.getElementById("back").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));
document.getElementById("columns").addEventListener("click", (event) => {
  state.all = !state.all;
  event.target.textContent = state.all ? "Show fewer columns" : "Show all columns";
  drawHead();
  drawBody();
});
document.getElementById("clear").addEventListener("click", () => {
  state.filters.clear();
  state.flags.clear();
  state.page = 0;
  drawFlags();
  drawHead();
  drawBody();
});
document.querySelector("dialog button").addEventListener("click", () => document.querySelector("dialog").close());
drawFlags();
drawHead();
drawBody();
