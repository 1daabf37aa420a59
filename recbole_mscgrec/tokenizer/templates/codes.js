"use strict";
// The view is a function of the address: #code=17.4, #item=TOKEN or #q=WORDS, each with &sort=...
const data = JSON.parse(document.getElementById("data").textContent);
const SHOWN = 24; // items of a sheet before "and N more"
const FOUND = 200; // results of a search
const nContent = data.health.n_content_levels;
const hasPosters = data.items.some((item) => item.poster);
const main = document.querySelector("main");
const toolbar = document.querySelector(".toolbar");
const search = document.querySelector("input");
const sort = document.querySelector("select");
const announced = document.querySelector("[role=status]");
const scrolls = new Map(); // address -> where it was left
let address = location.hash;

const number = (value) => value.toLocaleString("en");
const count = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;
const fold = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

// Every value becomes text or an attribute, never markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function state() {
  const given = new URLSearchParams(location.hash.slice(1));
  return { code: given.get("code") ?? "", item: given.get("item"), q: given.get("q") ?? "", sort: given.get("sort") ?? "size" };
}

function link(changes) {
  const kept = state().sort === "size" ? {} : { sort: state().sort };
  return "#" + new URLSearchParams({ ...changes, ...kept });
}

// Prefix, as '17.4', -> its items, the most popular first.
const members = new Map([["", []]]);
for (const item of data.items) {
  if (item.code === null) continue;
  for (let length = 0; length <= item.code.length; length++) {
    const prefix = item.code.slice(0, length).join(".");
    if (!members.has(prefix)) members.set(prefix, []);
    members.get(prefix).push(item);
  }
}
const byToken = new Map(data.items.map((item) => [item.token, item]));
const depth = (prefix) => (prefix === "" ? 0 : prefix.split(".").length);
const parent = (prefix) => prefix.split(".").slice(0, -1).join(".");
const size = (prefix) => data.groups[prefix]?.n ?? members.get(prefix).length;
const coherence = (prefix) => data.groups[prefix]?.coherence ?? 0;

function byCode(a, b) {
  const [first, second] = [a.split(".").map(Number), b.split(".").map(Number)];
  const at = first.findIndex((codeword, level) => codeword !== second[level]);
  return at < 0 ? 0 : first[at] - second[at];
}

function childrenOf(prefix, order) {
  const known = [...Object.keys(data.groups), ...members.keys()]; // a group may show no item
  const level = depth(prefix) + 1;
  const found = [...new Set(known)].filter((p) => p !== "" && depth(p) === level && parent(p) === prefix);
  const orders = { size: (a, b) => size(b) - size(a), code: () => 0, coherence: (a, b) => coherence(b) - coherence(a) };
  return found.sort((a, b) => (orders[order] ?? orders.size)(a, b) || byCode(a, b));
}

// The codewords from level `from` on; the collision level as +1, unless it is 0.
function codeText(item, from = 0) {
  const collision = item.code.slice(Math.max(nContent, from)).filter((c) => c > 0).map((c) => `+${c}`);
  return [item.code.slice(from, nContent).join("·"), ...collision].filter(Boolean).join(" ");
}

function poster(item) {
  if (!item.poster) {
    return element("span", { class: "poster none", "aria-hidden": "true" }, item.title.slice(0, 1).toUpperCase());
  }
  const src = "data:image/jpeg;base64," + item.poster;
  return element("span", { class: "poster" }, element("img", { src, alt: "", loading: "lazy", decoding: "async" }));
}

function tile(item, from, label) {
  const rest = label ?? (from > 1 && codeText(item, from) ? `·${codeText(item, from)}` : null);
  const attributes = { class: "item", href: link({ item: item.token }), title: `${item.title} (${item.token}): ${count(item.popularity, "interaction")}` };
  const counted = element("span", { class: "count" }, number(item.popularity));
  const shown = rest ? element("span", { class: "rest" }, rest) : null;
  const title = element("span", { class: "title" }, item.title);
  return element("li", {}, element("a", attributes, hasPosters ? poster(item) : null, title, shown, counted));
}

function itemList(items, from, { label = null, wide = false, total = items.length } = {}) {
  const list = element("ul", { class: `items${hasPosters ? "" : " lines"}${wide ? " wide" : ""}` });
  const add = (some) => list.append(...some.map((item) => tile(item, from, label?.(item))));
  add(items.slice(0, SHOWN));
  const lacking = total - items.length; // of a catalogue that is too large for a page
  const note = lacking ? [element("p", {}, element("small", {}, `${number(lacking)} more are not on this page`))] : [];
  if (items.length <= SHOWN) return [list, ...note];
  const more = element("button", { class: "more", type: "button" }, `and ${number(items.length - SHOWN)} more`);
  more.addEventListener("click", () => {
    add(items.slice(SHOWN));
    more.remove();
    list.children[SHOWN].firstChild.focus();
  });
  return [list, more, ...note];
}

function words(prefix) {
  const group = data.groups[prefix];
  if (!group || group.frequent.length === 0) return null;
  const parts = group.characteristic.map(([word, lift]) => element("b", {}, word, element("span", {}, `\u00a0×${lift < 9.95 ? lift.toFixed(1) : Math.round(lift)}`)));
  const shares = group.frequent.map(([word, share]) => `${word} ${Math.round(100 * share)}\u00a0%`).join(", ");
  return element("p", { class: "words" }, ...parts, element("span", { class: "frequent" }, shares));
}

function sheet(prefix) {
  const parts = prefix.split(".");
  const before = parts.length > 1 ? element("span", { class: "before" }, parts.slice(0, -1).join(" · ") + " ·") : null;
  const opens = parts.length < nContent;
  const name = opens ? element("a", { href: link({ code: prefix }), "aria-label": `Code ${parts.join(" ")}, open` }, before, parts.at(-1)) : element("span", {}, before, before && " ", parts.at(-1));
  const tip = data.words_column ? { title: `coherence ${coherence(prefix).toFixed(2)}` } : {};
  const head = element("div", { class: "head" }, element("h2", {}, name), element("small", tip, count(size(prefix), "item")));
  const shown = itemList(members.get(prefix) ?? [], parts.length, { total: size(prefix) });
  return element("section", { class: "sheet", "data-code": prefix }, head, words(prefix), ...shown);
}

// Codes of one item each, together: a sheet for every one of them would hide the others.
function singles(prefix, codes, order) {
  if (codes.length === 0) return null;
  const items = codes.map((code) => members.get(code)[0]);
  if (order !== "code") items.sort((a, b) => b.popularity - a.popularity);
  const head = element("div", { class: "head" }, element("h2", {}, "Codes with one item"), element("small", {}, count(items.length, "item")));
  const label = (item) => `·${codeText(item, depth(prefix))}`;
  return element("section", { class: "sheet alone" }, head, ...itemList(items, depth(prefix), { label, wide: true }));
}

function codeView({ code, sort: order }) {
  if (code === "none") {
    const without = data.items.filter((item) => item.code === null);
    const text = `${count(data.health.n_missing, "item")} without a ${data.modality} code`;
    return [element("p", { class: "summary" }, text), ...itemList(without, 0, { wide: true, total: data.health.n_missing })];
  }
  const children = childrenOf(code, order);
  if (children.length === 0) return [element("p", { class: "summary" }, `No item has the code ${code}.`)];
  const level = data.levels[depth(code)].name;
  const items = code === "" ? data.health.n_items : size(code);
  const text = `${count(items, "item")} in ${count(children.length, "code")} of ${level}; the number under a title counts its interactions`;
  const [summary, sheets] = [element("p", { class: "summary" }, text), element("div", { class: "sheets" })];
  if (code === "") {
    sheets.append(...children.map(sheet));
    return [summary, sheets];
  }
  sheets.classList.add("inner");
  const single = children.filter((prefix) => size(prefix) === 1 && members.has(prefix));
  sheets.append(...children.filter((prefix) => !single.includes(prefix)).map(sheet));
  return [summary, words(code), sheets, singles(code, single, order)];
}

function codeLinks(item) {
  const parts = item.code.map((codeword, i) => {
    if (i >= nContent) return element("span", { title: "collision level: numbers the items that would share a code" }, `+${codeword}`);
    const prefix = item.code.slice(0, Math.min(i + 1, Math.max(nContent - 1, 0))).join(".");
    return element("a", { href: link({ code: prefix }) }, `${codeword}`);
  });
  return element("p", { class: "code" }, ...parts.flatMap((part, i) => (i ? [" ", part] : [part])));
}

function itemView({ item: token }) {
  const item = byToken.get(token);
  if (!item) return [element("p", { class: "summary" }, `There is no item ${token} on this page.`)];
  const facts = [item.token, ...(item.words.length ? [item.words.join(", ")] : []), count(item.popularity, "interaction")].join("  ·  ");
  const text = element("div", {}, element("h2", {}, item.title), element("p", {}, facts));
  const view = [element("div", { class: "one" }, hasPosters ? poster(item) : null, text)];
  if (item.code === null) {
    text.append(element("p", {}, `It has no ${data.modality} code.`));
    return view;
  }
  text.append(codeLinks(item));
  for (let length = nContent; length > 0; length--) {
    const prefix = item.code.slice(0, length).join(".");
    const longer = length < nContent ? item.code.slice(0, length + 1).join(".") : null;
    const near = members.get(prefix).filter((other) => other !== item && (longer === null || other.code.slice(0, length + 1).join(".") !== longer));
    if (near.length === 0) continue;
    const same = length === nContent ? "The same code" : `The same ${length === 1 ? "first codeword" : `first ${length} codewords`}`;
    view.push(element("section", {}, element("h3", {}, `${same} `, element("small", {}, count(near.length, "item"))), ...itemList(near, length, { wide: true })));
  }
  if (view.length === 1) view.push(element("p", { class: "summary" }, "No other item shares its first codeword."));
  return view;
}

const folded = data.items.map((item) => fold(`${item.title}\n${item.token}`));
function searchView({ q }) {
  const wanted = fold(q.trim());
  const found = data.items.filter((_, i) => folded[i].includes(wanted));
  if (found.length === 0) return [element("p", { class: "summary" }, `No item's title or token contains “${q}”.`)];
  const label = (item) => (item.code ? codeText(item) : "no code");
  const text = count(found.length, "item") + (found.length > FOUND ? `, the ${FOUND} most popular are listed` : "");
  return [element("p", { class: "summary" }, text), ...itemList(found.slice(0, FOUND), 0, { label, wide: true })];
}

function path({ code, item, q }) {
  const steps = [[link({}), "All codes"]];
  const parts = code && code !== "none" ? code.split(".") : [];
  parts.forEach((codeword, i) => steps.push([link({ code: parts.slice(0, i + 1).join(".") }), `${codeword}`]));
  if (code === "none") steps.push(["", "no code"]);
  if (item !== null) steps.push(["", byToken.get(item)?.title ?? item]);
  else if (q) steps.push(["", "Search"]);
  return steps.flatMap(([href, text], i) => {
    const last = i === steps.length - 1;
    const step = last ? element("span", { "aria-current": "page" }, text) : element("a", { href }, text);
    return i ? [element("i", { "aria-hidden": "true" }, "/"), step] : [step];
  });
}

function show() {
  const now = state();
  const view = now.item !== null ? itemView(now) : now.q.trim() ? searchView(now) : codeView(now);
  main.replaceChildren(...view.filter((part) => part !== null));
  document.querySelector(".path").replaceChildren(...path(now));
  sort.value = [...sort.options].some((option) => option.value === now.sort) ? now.sort : "size";
  sort.parentElement.hidden = now.item !== null || Boolean(now.q.trim()) || now.code === "none";
  if (search.value !== now.q) search.value = now.q;
  announced.textContent = main.querySelector(".summary, h2").textContent;
}

addEventListener("hashchange", () => {
  if (location.hash === address) return;
  scrolls.set(address, scrollY);
  address = location.hash;
  const top = Math.min(scrollY, main.offsetTop - toolbar.offsetHeight);
  show();
  if (document.activeElement !== search && document.activeElement !== sort) main.focus({ preventScroll: true });
  scrollTo(0, scrolls.get(address) ?? top);
});
sort.addEventListener("change", () => {
  const { code } = state();
  const given = new URLSearchParams({ ...(code ? { code } : {}), ...(sort.value === "size" ? {} : { sort: sort.value }) });
  location.hash = given.toString();
});
search.addEventListener("input", () => {
  // One step back for a whole search, not for every letter.
  const target = link(search.value.trim() ? { q: search.value } : {});
  history[state().q ? "replaceState" : "pushState"](null, "", target);
  address = location.hash;
  show();
});
history.scrollRestoration = "manual";
toolbar.hidden = false;
show();
