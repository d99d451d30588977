// @stable-canvas/comfyui-client: connect, run by WebSocket and by polling, progress and previews, cancel, errors;
// queue, history in pages, settings, user data.

import { readFileSync } from "node:fs";
import { Client, Workflow } from "@stable-canvas/comfyui-client";
import WebSocket from "ws";

const facts = JSON.parse(process.argv[2]);
const report = { events: [] };
const client = new Client({ api_host: new URL(facts.url).host, WebSocket });
await client.connect();
client.on("message", (event) => {
  if (typeof event.data === "string") report.events.push(JSON.parse(event.data).type);
});

const base64 = (data) => Buffer.from(data).toString("base64");
const described = (error) => ({ name: error.constructor.name, message: error.message, data: error.data ?? null });
const caught = (promise) => promise.then(() => null, described);

const form = new FormData();
form.append("image", new Blob([readFileSync(facts.picture)]), "stable.png");
form.append("overwrite", "true");
report.stored = await (await client.fetchApi("/upload/image", { method: "POST", body: form })).json();

function develop(steps, pause, spoiled = "") {
  const workflow = new Workflow();
  const { LoadImage, RFDevelop, SaveImage } = workflow.classes;
  const [image] = LoadImage({ image: report.stored.name });
  const [developed] = RFDevelop({ image, steps, pause, spoiled });
  SaveImage({ images: developed, filename_prefix: "stable" });
  return workflow;
}

const fetched = async (output) => {
  const urls = output.images.filter((image) => image.type === "url").map((image) => image.data);
  return Promise.all(urls.map(async (url) => base64(await (await fetch(url)).arrayBuffer())));
};

report.progress = [];
const output = await develop(8, 0.1).invoke(client, {
  progress: (info) => report.progress.push([info.node, info.value, info.max]),
});
report.previews = output.images.filter((image) => image.type === "buff").map((image) => [image.mime, base64(image.data)]);
report.pictures = await fetched(output);

const polled = await develop(2, 0).invoke_polling(client, { polling_ms: 100 });
report.polled = await fetched(polled);

const sleep = new Workflow();
sleep.classes.RFSleep({ seconds: 60 });
const sleeping = sleep.instance(client);
const started = new Promise((resolve) => client.once("progress", resolve));
await sleeping.enqueue();
await started;
report.running = await sleeping.query();
const interrupted = caught(sleeping.wait());
await sleeping.interrupt();
report.interrupted = await interrupted;

// Several at a time fill the server; what waits behind them is taken out of the queue.
const crowd = [];
for (let index = 0; index < 6; index += 1) {
  const one = new Workflow();
  one.classes.RFSleep({ seconds: 60 + index });
  crowd.push(one.instance(client));
  await crowd.at(-1).enqueue();
}
report.before = await crowd.at(-1).query();
const { Running, Pending } = await client.getQueue();
report.queue = [Running.length, Pending.length, Pending.at(-1)[1] === crowd.at(-1).task_id];
await client.clearItems("queue");
report.after = await crowd.at(-1).query();
await Promise.all(
  crowd.slice(0, Running.length).map(async (instance) => {
    const end = caught(instance.wait());
    await instance.interrupt();
    return end;
  }),
);

report.failed = await caught(develop(4, 0.1, facts.text).invoke(client));
const invalid = new Workflow();
invalid.classes.RFReport({});
report.refused = await caught(invalid.invoke(client));

report.histories = [(await client.getHistory(2)).History.length, (await client.getHistory(1, { offset: 1 })).History.length];
report.loader = (await client.getNodeDefs()).LoadImage.input.required.image[0].includes("stable.png");
report.stats = (await client.getSystemStats()).system.os;
report.extensions = await client.getExtensions();
await client.storeSetting("Stable.Test", [1, 2]);
report.setting = await client.getSetting("Stable.Test");
await client.storeUserData("stable/notes.json", JSON.stringify({ text: "kept" }));
report.userdata = await (await client.getUserData("stable/notes.json")).json();
report.missing = await caught(client.getUserData("stable/none.json").then((answer) => answer.status));
report.models = [await client.getEmbeddings(), await client.getLoRAs().catch(described)];
await client.free({ unload_models: true });
client.close();
console.log(JSON.stringify(report));
process.exit(0);
