// Text from hosts. Every label, name and message may have been chosen by somebody who means harm: it is shown as text,
// what cannot be seen is made visible, and it can neither turn the line's direction nor push anything off the page.

const SHOWN_CHARACTERS_MAX = 400;

// Controls, marks of direction, invisible spaces and separators. Joiners (200c, 200d) stay: emoji and scripts need them.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
const STACKED = /(\p{M}{3})\p{M}+/gu;

/** One line of it, with what cannot be seen as its number. */
export function visible(text: string, lines = false): string {
  const shown = text
    .replace(UNSEEN, (letter) => `‹U+${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}›`)
    .replace(STACKED, "$1");
  return lines ? shown : shown.replace(/[\n\t]/g, (letter) => (letter === "\n" ? " ↵ " : " ⇥ "));
}

/** A text of a host in one line; too long a one is cut and whole in its tooltip. */
export function Text({ of, max = SHOWN_CHARACTERS_MAX }: { of: string; max?: number }) {
  const letters = of.length > max ? [...of] : [];
  const cut = letters.length > max;
  const shown = visible(cut ? letters.slice(0, max).join("") : of);
  return <bdi title={cut ? visible(of) : undefined}>{cut ? `${shown}…` : shown}</bdi>;
}

/** The same with its own lines, whole. */
export const Lines = ({ of }: { of: string }) => (
  <bdi class="lines" dir="auto">
    {visible(of, true)}
  </bdi>
);

/** An address that may be opened: http and https alone, without a name and password in it. */
export function webLink(text: string): string | undefined {
  try {
    const url = new URL(text.trim());
    const plain = (url.protocol === "https:" || url.protocol === "http:") && url.username === "" && url.password === "";
    return plain ? url.href : undefined;
  } catch {
    return undefined;
  }
}

/** A link where the text is one, the text where it is not. What is shown is where it leads. */
export function Address({ of, word }: { of: string; word?: string }) {
  const href = webLink(of);
  if (href === undefined) return <Text of={of} />;
  return (
    <a href={href} target="_blank" rel="noopener noreferrer" title={visible(href)}>
      {word !== undefined ? `${word} (${new URL(href).host})` : <Text of={href} max={120} />} ↗
    </a>
  );
}

const MATCHERS_CHARACTERS_MAX = 4_000; // The collector takes 4,096.
const ESCAPES: Record<string, string> = { "\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r" };

const quoted = (text: string): string => `"${text.replace(/[\\"\n\t\r]/g, (letter) => ESCAPES[letter] ?? letter)}"`;

/** A matcher of one label's value. Where that has what cannot be seen, it is a regular expression in which it can be:
 * what one reads before one confirms is what there is. */
function matcherOf([name, value]: [string, string]): string {
  if (visible(value, true) === value) return `${name}=${quoted(value)}`;
  const pattern = value
    .replace(/[\\^$.|?*+()[\]{}]/g, "\\$&")
    .replace(UNSEEN, (letter) => `\\x{${letter.charCodeAt(0).toString(16).padStart(4, "0")}}`);
  return `${name}=~${quoted(pattern)}`;
}

/** What a silence of these labels matches, in PromQL's spelling. The longest give way where all would be too many. */
export function matchersOf(labels: [string, string][]): string {
  let parts = labels.filter(([name]) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name)).map(matcherOf);
  while (parts.length > 1 && parts.join(",").length > MATCHERS_CHARACTERS_MAX) {
    const longest = parts.reduce((most, part) => (part.length > most.length ? part : most));
    parts = parts.filter((part) => part !== longest);
  }
  return parts.join(",");
}

const PLACE = ["instance", "mountpoint", "device", "check", "backup"];

export function LabelList({ labels, without = [] }: { labels: Record<string, string>; without?: string[] }) {
  const order = (name: string): number => (PLACE.includes(name) ? PLACE.indexOf(name) : PLACE.length);
  const shown = Object.entries(labels)
    .filter(([name]) => !without.includes(name))
    .sort(([a], [b]) => order(a) - order(b) || a.localeCompare(b));
  return (
    <ul class="labels">
      {shown.map(([name, value]) => (
        <li key={name}>
          <span class="name">
            <Text of={name} max={80} />
          </span>
          <Text of={value} />
        </li>
      ))}
    </ul>
  );
}
