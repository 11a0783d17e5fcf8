// Formulas: KaTeX lies beside this file, and is loaded only by a page that has one. Without script the TeX is shown.
(() => {
  const here = new URL(".", document.currentScript.src);
  const formulas = () => document.querySelectorAll(".arithmatex");
  const draw = () => formulas().forEach((part) => {
    const text = part.textContent.trim(), tex = text.slice(2, -2);
    katex.render(tex, part, { displayMode: text.startsWith("\\["), throwOnError: false });
  });
  const load = () => {
    if (!formulas().length) return;
    const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("katex/katex.min.css", here) });
    const script = Object.assign(document.createElement("script"), { src: new URL("katex/katex.min.js", here), onload: draw });
    document.head.append(style, script);
  };
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", load) : load();
})();
