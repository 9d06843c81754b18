// A classic script in the head: light or dark is settled before anything is drawn.
(() => {
  let theme = null;
  try {
    theme = JSON.parse(localStorage.getItem("settings") ?? "{}").theme;
  } catch {
    // No storage, or nonsense in it: the system's preference holds.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
