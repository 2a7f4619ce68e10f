// Elements, tables and lists: whatever is put into the page goes through `el`.

// An element with attributes and children. A string becomes text, never markup, and cannot act on what is around it.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, printable(String(value)));
  }
  node.append(
    ...children
      .flat()
      .filter((child) => child != null)
      .map((child) => (child instanceof Node ? child : printable(String(child)))),
  );
  return node;
}

const WIDE = 24; // letters, from which on a cell may have several lines
const textOf = (cell) => (cell instanceof Node ? cell.textContent : String(cell ?? ""));

// A table that may be wide and long: a page of its rows at a time. Gives its element, and `fill` to show other rows.
// columns: names, a name ending in # is of numbers; rows: a list of lists of cells, or of functions that make them, or a
// function that makes the list when it is first shown. `hidden` captions are for who does not see the table.
function tableOf(caption, columns, rows, { perPage = 100, hidden = true } = {}) {
  const numeric = columns.map((name) => name.endsWith("#")),
    body = el("tbody"),
    range = el("span"),
    turning = el("div", { class: "pages" });
  let known = typeof rows === "function" ? null : rows,
    page = 0;
  const pages = () => Math.max(1, Math.ceil(known.length / perPage));
  const within = (to) => Math.min(Math.max(0, to), pages() - 1);
  const show = (to) => {
    page = within(to);
    const cut = known.slice(page * perPage, (page + 1) * perPage);
    body.replaceChildren(...cut.map((row) => rowOf(typeof row === "function" ? row() : row, numeric)));
    const last = Math.min(known.length, (page + 1) * perPage);
    range.textContent = known.length
      ? `${whole(page * perPage + 1)} to ${whole(last)} of ${whole(known.length)}`
      : "none";
    // Not `disabled`: who turned to the last page keeps the focus.
    for (const [button, where] of buttons) button.setAttribute("aria-disabled", String(within(where(page)) === page));
    turning.hidden = pages() === 1;
    reach(scroll);
  };
  const ways = {
    first: () => 0,
    previous: (at) => at - 1,
    next: (at) => at + 1,
    last: () => pages() - 1,
  };
  const buttons = Object.entries(ways).map(([word, where]) => {
    const turn = () => show(where(page));
    return [el("button", { type: "button", "aria-label": `${word} page of ${caption}`, onclick: turn }, word), where];
  });
  turning.append(...buttons.map(([button]) => button), range);
  const heads = columns.map((name, place) =>
    el("th", { scope: "col", class: numeric[place] ? "number" : null }, name.replace(/#$/, "")),
  );
  const scroll = scrolling(
    caption,
    el(
      "table",
      {},
      el("caption", { class: hidden ? "unseen" : null }, caption),
      el("thead", {}, el("tr", {}, heads)),
      body,
    ),
  );
  const fill = (given) => {
    known = given ?? known ?? rows();
    show(0);
  };
  if (known) fill();
  return { node: el("div", {}, scroll, turning), fill };
}

function rowOf(cells, numeric) {
  return el(
    "tr",
    {},
    cells.map((cell, place) =>
      el(
        place ? "td" : "th",
        {
          scope: place ? null : "row",
          class: numeric[place] ? "number" : textOf(cell).length > WIDE ? "wide" : null,
        },
        cell ?? "–",
      ),
    ),
  );
}

const scrolls = new Set(); // what scrolls sideways where the page is narrow

// Around a table: reached with the keyboard only where there is something to scroll to.
function scrolling(caption, table) {
  const node = el("div", { class: "scroll", "data-name": caption }, table);
  scrolls.add(node);
  return node;
}

function reach(node) {
  const needed = node.scrollWidth > node.clientWidth;
  for (const [name, value] of [
    ["tabindex", "0"],
    ["role", "region"],
    ["aria-label", node.dataset.name],
  ]) {
    if (needed) node.setAttribute(name, value);
    else node.removeAttribute(name);
  }
}

function reachAll() {
  for (const node of scrolls) {
    if (node.isConnected) reach(node);
    else scrolls.delete(node);
  }
}

function named(pairs) {
  return el(
    "dl",
    {},
    pairs
      .filter(([, value]) => value != null && value !== "")
      .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
  );
}

const quiet = (...words) => el("p", { class: "quiet" }, ...words);

// A list to choose from, and what is chosen. The values themselves stay out of the page: `word` says what stands there.
function choice(label, values, word, value, changed) {
  const select = el(
    "select",
    { onchange: changed },
    values.map((one, place) => el("option", { value: place, selected: one === value }, word(one))),
  );
  return [el("label", {}, label, select), () => values[select.selectedIndex]];
}

// Fields side by side; Enter in one of them asks.
function asking(fields, asked) {
  const submitted = (event) => {
    event.preventDefault();
    asked();
  };
  return el("form", { class: "asked", onsubmit: submitted }, fields);
}
