// @saintno/comfyui-sdk: connect, upload, run with progress and previews, fetch, cancel, errors; settings, user data,
// and what it asks of extensions that this server does not have.

import { readFileSync } from "node:fs";
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";

const facts = JSON.parse(process.argv[2]);
const report = {};
const api = await new ComfyApi(facts.url, undefined, { listenTerminal: true }).init().waitForReady();
report.os = api.osType;
report.extensions = [api.ext.manager.isSupported, api.ext.monitor.isSupported];

const stored = await api.uploadImage(readFileSync(facts.picture), "saintno.png", { override: true });
report.stored = stored.info;

const base64 = async (blob) => Buffer.from(await blob.arrayBuffer()).toString("base64");

// Runs a workflow; resolves when it has finished or failed.
async function run(prompt, outputs, started = () => {}) {
  const builder = new PromptBuilder(prompt, [], Object.keys(outputs));
  for (const [name, node] of Object.entries(outputs)) builder.setOutputNode(name, node);
  const seen = { progress: [], previews: [], outputs: [] };
  const wrapper = new CallWrapper(api, builder)
    .onPending(() => (seen.pending = true))
    .onStart(() => (seen.started = true))
    .onProgress((info) => {
      seen.progress.push([info.node, info.value, info.max]);
      started();
    })
    .onPreview((blob) => seen.previews.push(blob))
    .onOutput((name, data) => seen.outputs.push([name, data]))
    .onFinished((data) => (seen.finished = data))
    .onFailed((error) => (seen.failed ??= { name: error.constructor.name, message: error.message, cause: error.cause }));
  seen.result = await wrapper.run();
  seen.previews = await Promise.all(seen.previews.map(base64));
  return seen;
}

// A report is printed also when a step of this program fails.
process.on("uncaughtException", (error) => {
  console.error(error, JSON.stringify(report).slice(0, 20000));
  process.exit(1);
});

const prompt = facts.developed;
prompt["1"].inputs.image = stored.info.filename;
report.run = await run(prompt, { saved: "3" });
report.pictures = await Promise.all(
  report.run.finished.saved.images.map(async (image) => base64(await api.getImage(image))),
);
report.addresses = report.run.finished.saved.images.map((image) => api.getPathImage(image));

report.cancelled = await run(facts.sleeping, { slept: "1" }, () => api.interrupt());
facts.failing["1"].inputs.image = stored.info.filename;
report.failed = await run(facts.failing, { saved: "3" });
report.refused = await run(facts.invalid, { reported: "1" });

report.queue = await api.getQueue();
report.histories = Object.keys(await api.getHistories(2)).length;
report.loader = (await api.getNodeDefs("LoadImage")).LoadImage.input.required.image[0].includes("saintno.png");
report.unknown = await api.getNodeDefs("NoSuchNode");
await api.storeSetting("Saintno.Test", { value: 1 });
report.setting = await api.getSetting("Saintno.Test");
await api.storeUserData("saintno/notes.json", { text: "kept" });
report.userdata = await (await api.getUserData("saintno/notes.json")).json();
report.listed = await api.listUserData("saintno", true, false);
await api.deleteUserData("saintno/notes.json");
report.deleted = (await api.getUserData("saintno/notes.json")).status;
report.features = await api.getFeatures();
report.models = [await api.getModelTypes(), await api.getEmbeddings(), await api.getCheckpoints(), await api.getLoras()];
report.templates = await api.getWorkflowTemplates();
report.freed = await api.freeMemory(true, true);
report.logs = Array.isArray((await api.getTerminalLogs()).entries);
report.stats = (await api.getSystemStats()).devices.length;
report.users = await api.getUserConfig();
await api.clearHistory({ clear: true });
report.cleared = Object.keys(await api.getHistories()).length;
api.destroy();
console.log(JSON.stringify(report));
process.exit(0);
