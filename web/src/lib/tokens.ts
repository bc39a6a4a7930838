/** A token as the server shows it (`␣dog`, `⏎`), back as text; null if it is a part of a character. */
export function raw(token: string): string | null {
  if (/⟨[0-9A-F ]+⟩/.test(token)) return null;
  if (/^␣+$/.test(token)) return " ".repeat(token.length);
  return token.replace(/^␣/, " ").replaceAll("⏎", "\n").replaceAll("⇥", "\t").replaceAll("␍", "\r");
}
