// One https URL, asked for by Node's own fetch and its https module, as anybody's code does it.
import https from 'node:https';

const show = async (client, ask) => {
  try {
    console.log(JSON.stringify({client, ...JSON.parse(await ask())}));
  } catch (error) {
    console.log(JSON.stringify({client, verified: false, error: `${error} ${error.cause}`}));
  }
};
await show('node-fetch', async () => (await fetch(process.env.URL)).text());
await show('node-https', () => new Promise((resolve, reject) => {
  https.get(process.env.URL, (answer) => {
    let text = '';
    answer.on('data', (piece) => { text += piece; });
    answer.on('end', () => resolve(text));
  }).on('error', reject);
}));
