// The little of Markdown that models write all the time: paragraphs, headings, lists, code. Every piece
// of text becomes a text node, so that whatever a model writes is only ever text.

const FENCE = /^\s*(```+|~~~+)\s*([\w+#.-]*)\s*$/;
const ITEM = /^(\s*)(?:[-*+•]|(\d{1,4})[.)])\s+(.*)$/;
const HEADING = /^#{1,6}\s+(.*?)\s*#*$/;
const INLINE = /(`+)([^`]|[^`].*?[^`])\1(?!`)|\*\*(\S|\S.*?\S)\*\*/g;

function element(name, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Puts a line into `parent`: text, code and what is stressed. */
function inline(parent, text) {
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    parent.append(text.slice(from, match.index));
    parent.append(match[1] ? element("code", match[2].trim()) : element("strong", match[3]));
    from = match.index + match[0].length;
  }
  parent.append(text.slice(from));
}

/** The text as a fragment of nodes. Text that breaks off anywhere is fine: that is how it streams. */
export function render(text) {
  const out = document.createDocumentFragment();
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  let paragraph = null;
  let list = null;
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (fence) {
      const code = [];
      for (at += 1; at < lines.length && lines[at].trim() !== fence[1]; at += 1) code.push(lines[at]);
      const block = element("pre", code.join("\n"));
      block.tabIndex = 0;
      out.append(block);
      paragraph = list = null;
      continue;
    }
    const item = ITEM.exec(line);
    const heading = HEADING.exec(line);
    if (item) {
      const kind = item[2] ? "ol" : "ul";
      if (list?.localName !== kind) {
        list = element(kind);
        if (item[2]) list.start = Number(item[2]);
        out.append(list);
      }
      const entry = element("li");
      inline(entry, item[3]);
      list.append(entry);
      paragraph = null;
    } else if (heading) {
      const title = element("p");
      title.append(element("strong", heading[1]));
      out.append(title);
      paragraph = list = null;
    } else if (line.trim() === "") {
      paragraph = null;
      // A list goes on over an empty line when another item follows.
      if (!ITEM.test(lines[at + 1] ?? "")) list = null;
    } else if (list?.lastChild && !paragraph) {
      list.lastChild.append("\n");
      inline(list.lastChild, line.trim());
    } else {
      if (paragraph) paragraph.append("\n");
      else out.append((paragraph = element("p")));
      inline(paragraph, line);
    }
  }
  return out;
}
