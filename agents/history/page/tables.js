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

const textOf = (cell) => (cell instanceof Node ? cell.textContent : String(cell ?? ""));

// A table that may be wide and long: a page of its rows at a time.
// columns: names, a name ending in # is of numbers; rows: a list, or a function that makes it when it is first shown.
function tableOf(caption, columns, rows, { perPage = 100, hidden = true } = {}) {
  const numeric = columns.map((name) => name.endsWith("#")),
    names = columns.map((name) => name.replace(/#$/, ""));
  const body = el("tbody"),
    told = el("span", { role: "status" }),
    holder = el("div", { class: "pages" });
  let known = typeof rows === "function" ? null : rows,
    page = 0;
  const show = (to) => {
    const count = Math.max(1, Math.ceil(known.length / perPage));
    page = Math.min(Math.max(0, to), count - 1);
    const cut = known
      .slice(page * perPage, (page + 1) * perPage)
      .map((row) => (typeof row === "function" ? row() : row));
    body.replaceChildren(
      ...cut.map((row) =>
        el(
          "tr",
          {},
          row.map((cell, place) =>
            el(
              place ? "td" : "th",
              {
                scope: place ? null : "row",
                class: numeric[place] ? "number" : textOf(cell).length > 40 ? "wide" : null,
              },
              cell ?? "–",
            ),
          ),
        ),
      ),
    );
    told.textContent = known.length
      ? `${whole(page * perPage + 1)} to ${whole(Math.min(known.length, (page + 1) * perPage))} of ${whole(known.length)}`
      : "none";
    buttons.forEach(([button, where]) => {
      button.disabled = Math.min(Math.max(0, where(page, count)), count - 1) === page;
    });
    holder.hidden = count === 1;
  };
  const buttons = [
    ["first", () => 0],
    ["previous", (at) => at - 1],
    ["next", (at) => at + 1],
    ["last", (at, count) => count - 1],
  ].map(([word, where]) => [
    el(
      "button",
      {
        type: "button",
        "aria-label": `${word} page of ${caption}`,
        onclick: () => show(where(page, Math.ceil(known.length / perPage))),
      },
      word,
    ),
    where,
  ]);
  holder.append(...buttons.map(([button]) => button), told);
  const table = el(
    "table",
    {},
    el("caption", { class: hidden ? "unseen" : null }, caption),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        names.map((name, place) => el("th", { scope: "col", class: numeric[place] ? "number" : null }, name)),
      ),
    ),
    body,
  );
  const node = el(
    "div",
    {},
    el("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" }, table),
    holder,
  );
  const fill = (given) => {
    known = given ?? known ?? rows();
    show(0);
  };
  if (known) fill();
  return { node, fill };
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
