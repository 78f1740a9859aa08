// Light or dark theme: the system's, unless the user chose another.

const KEY = "loramux-theme";
const choice = document.getElementById("theme");

export function watch(changed) {
  choice.value = localStorage.getItem(KEY) ?? "";
  apply();
  choice.addEventListener("change", () => {
    localStorage.setItem(KEY, choice.value);
    apply();
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}

function apply() {
  document.documentElement.dataset.theme = choice.value;
}
