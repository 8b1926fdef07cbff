// A policy's text: colours for reading it, and the one edit that needs no typing: a rule set to shadow.

import { html } from "./ui.js";

const TOKENS = /(#.*$)|("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')|([\w.*/-]+)(?=:(?:\s|$))|(?<![\w.-])(-?\d[\d.]*|true|false|null)(?![\w./-])/g;
const KINDS = ["", "yaml-comment", "yaml-string", "yaml-key", "yaml-number"];

/** YAML with its keys, texts, numbers and comments told apart. */
export function Yaml({ text, label }) {
  return html`<pre class="code" tabindex="0" aria-label=${label}><code>${text.split("\n").map((line) => html`${coloured(line)}${"\n"}`)}</code></pre>`;
}

function coloured(line) {
  const parts = [];
  let at = 0;
  for (const found of line.matchAll(TOKENS)) {
    // A "#" inside a word begins no comment.
    if (found[1] && found.index > 0 && !/\s/.test(line[found.index - 1])) continue;
    parts.push(line.slice(at, found.index), html`<span class=${KINDS[found.findIndex((group, i) => i > 0 && group !== undefined)]}>${found[0]}</span>`);
    at = found.index + found[0].length;
  }
  return [...parts, line.slice(at)];
}

export const Diff = ({ text }) => html`<pre class="code diff" tabindex="0" aria-label="Difference"><code>${text.split("\n").map((line) => html`<span class=${line.startsWith("+") ? "add" : line.startsWith("-") ? "del" : line.startsWith("@@") ? "at" : ""}>${line || " "}</span>`)}</code></pre>`;

/** The rules of a policy that have a mode, as [label, path]. */
export function rulesOf(policy) {
  const rules = [];
  for (const section of ["budgets", "rates"]) for (const each of policy[section] ?? []) if (each.name) rules.push([`${section}: ${each.name}`, [section, each.name]]);
  for (const section of ["runs", "loops"]) if (policy[section]) rules.push([section, [section]]);
  for (const name of Object.keys(policy.screening ?? {})) if (typeof policy.screening[name] === "object" && !Array.isArray(policy.screening[name])) rules.push([`screening: ${name}`, ["screening", name]]);
  for (const each of policy.routing?.rules ?? []) if (each.name) rules.push([`routing: ${each.name}`, ["routing", "rules", each.name]]);
  for (const name of Object.keys(policy.tools ?? {})) if (name !== "defaults") rules.push([`tools: ${name}`, ["tools", name]]);
  return rules;
}

/** The line, when what follows its key or dash is a flow mapping. */
const dashless = (line) => (/^\s*(- )?\s*(["']?[^"'{:]+["']?:\s*)?\{/.test(line) ? line : "");
const indent = (line) => line.length - line.trimStart().length;
const blank = (line) => /^\s*(#.*)?$/.test(line);
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Where a block ends: the first line that is no deeper than its head. */
function blockEnd(lines, at) {
  const depth = indent(lines[at]);
  let end = at + 1;
  while (end < lines.length && (blank(lines[end]) || indent(lines[end]) > depth || (indent(lines[end]) === depth && lines[end].trimStart().startsWith("- ") && !lines[at].trimStart().startsWith("- ")))) end++;
  return end;
}

/** The text with this rule's `mode: shadow`; null where the rule is not found as it is usually written. */
export function inShadow(text, path) {
  const lines = text.split("\n");
  let [from, to] = [0, lines.length];
  let at = -1;
  for (const name of path) {
    const key = new RegExp(`^\\s*["']?${escaped(name)}["']?:(\\s|$)`);
    const item = new RegExp(`(^\\s*-\\s*\\{?|[{,]\\s*|^\\s+)name:\\s*["']?${escaped(name)}["']?\\s*([,}]|$)`);
    let found = -1;
    for (let i = from; i < to; i++) {
      if (key.test(lines[i]) && (at < 0 ? indent(lines[i]) === 0 : true)) { found = i; break; }
      if (at >= 0 && item.test(lines[i])) {
        found = i;
        while (found > from && !lines[found].trimStart().startsWith("- ")) found--;
        break;
      }
    }
    if (found < 0) return null;
    at = found;
    [from, to] = [at + 1, blockEnd(lines, at)];
  }
  const opens = dashless(lines[at]).indexOf("{");
  if (opens >= 0) {
    // Written as {…}, perhaps over several lines.
    for (let i = at; i < Math.max(to, at + 1); i++) {
      const set = lines[i].replace(/((?:^|[{,])\s*mode:\s*)["']?\w+["']?/, "$1shadow");
      if (/(^|[{,])\s*mode:/.test(lines[i])) {
        lines[i] = set;
        return lines.join("\n");
      }
    }
    lines[at] = lines[at].replace("{", "{mode: shadow, ");
    return lines.join("\n");
  }
  const dash = lines[at].trimStart().startsWith("- ");
  const inner = dash ? indent(lines[at]) + 2 : Math.min(...lines.slice(from, to).filter((line) => !blank(line)).map(indent), indent(lines[at]) + 8);
  for (let i = at; i < to; i++) {
    const own = i === at ? dash && /^\s*- mode:/.test(lines[i]) : indent(lines[i]) === inner && /^\s*mode:/.test(lines[i]);
    if (own) {
      lines[i] = lines[i].replace(/mode:.*/, "mode: shadow");
      return lines.join("\n");
    }
  }
  if (to === from && !dash) return null;
  lines.splice(at + 1, 0, `${" ".repeat(inner)}mode: shadow`);
  return lines.join("\n");
}
