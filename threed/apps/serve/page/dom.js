// Elements: h("label", { class: "x", onclick: f }, "text", child).

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const $ = (id) => document.getElementById(id);

export function options(select, values, chosen = "") {
  select.replaceChildren(...values.map(([value, text]) => h("option", { value }, text)));
  select.value = chosen;
}
