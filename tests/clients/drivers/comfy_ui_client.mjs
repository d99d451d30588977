// comfy-ui-client: upload, run, fetch; listings; errors.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { ComfyUIClient } from "comfy-ui-client";

const facts = JSON.parse(process.argv[2]);
const report = {};
const client = new ComfyUIClient(new URL(facts.url).host, randomUUID());
await client.connect();
report.stored = await client.uploadImage(readFileSync(facts.picture), "ui-client.png", true);
facts.plain["1"].inputs.image = report.stored.name;
const images = await client.getImages(facts.plain);
report.pictures = await Promise.all(
  images["3"].map(async ({ blob }) => Buffer.from(await blob.arrayBuffer()).toString("base64")),
);
report.refused = await client.queuePrompt(facts.invalid).then(() => null, (error) => error.message);
report.stats = (await client.getSystemStats()).system.os;
report.prompt = await client.getPrompt();
report.nodes = Object.keys(await client.getObjectInfo("RFInvert"));
report.queue = await client.getQueue();
report.lists = [await client.getEmbeddings(), await client.getExtensions()];
report.history = Object.keys(await client.getHistory()).length > 0;
await client.disconnect();
// Its log goes to the same stream as this report.
process.stdout.write(`\n${JSON.stringify(report)}\n`, () => process.exit(0));
