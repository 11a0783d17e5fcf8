// Formulas: KaTeX lies beside this file, and is loaded only by a page that has one. Without script the TeX is shown.
(() => {
  const here = new URL(".", document.currentScript.src);
  const formulas = () => document.querySelectorAll(".arithmatex");
  const draw = () => formulas().forEach((part) => {
    const text = part.textContent.trim();
    katex.render(text.slice(2, -2), part, { displayMode: text.startsWith("\\["), throwOnError: false });
  });
  const load = () => {
    const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("katex/katex.min.css", here) });
    const script = Object.assign(document.createElement("script"), { src: new URL("katex/katex.min.js", here), onload: draw });
    document.head.append(style, script);
  };
  // What scrolls can be reached by keyboard; the buttons of each code block have a name of their own.
  const name = () => {
    document.querySelectorAll("article pre > code, .md-typeset__scrollwrap, .shown").forEach((part) => { part.tabIndex = 0; });
    document.querySelectorAll(".md-code__nav").forEach((part, i) => part.setAttribute("aria-label", `Code ${i + 1}`));
  };
  addEventListener("DOMContentLoaded", () => formulas().length && load());
  addEventListener("load", name);
})();
