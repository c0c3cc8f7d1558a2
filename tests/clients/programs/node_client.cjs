// Node's own fetch, undici, axios or ws: one task after the other.
const {createHash} = require('crypto');
const {BASE, HOST, PROXY} = process.env;
const BODY = Buffer.concat(Array(80000).fill(Buffer.from(Array.from({length: 250}, (_, n) => n))));
const sha256 = (data) => createHash('sha256').update(Buffer.from(data)).digest('hex');
const numbers = Array.from({length: 50}, (_, n) => n);
const headers = HOST ? {Host: HOST} : {};
async function* pieces() { yield Buffer.from('ab'); yield Buffer.from('c'); }

const fetching = (fetch, more) => {
  const ask = async (path, options) => {
    const answer = await fetch(BASE + path, {headers, ...more, ...options});
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
    return answer;
  };
  const json = async (path, options) => (await ask(path, options)).json();
  return {
    up: () => json('/up', {method: 'POST', body: BODY}),
    down: async () => sha256(await (await ask(`/bytes/${BODY.length}`)).arrayBuffer()),
    chunked: () => json('/x', {method: 'POST', body: pieces(), duplex: 'half'}),
    gzip: async () => (await ask('/gzip')).text(),
    sse: async () => (await ask('/sse?n=3&every=0.01')).text(),
    parallel: () => Promise.all(numbers.map((n) => json(`/n${n}`))),
    utf8: () => json('/grüße?x=ü'),
  };
};
const clients = {
  fetch: () => fetching(fetch, {}),
  undici: () => {
    const undici = require('undici');
    // It tunnels plain http through a proxy, too.
    const dispatcher = PROXY ? new undici.ProxyAgent(PROXY) : new undici.Agent();
    return fetching(undici.fetch, {dispatcher});
  },
  axios: () => {
    const {Readable} = require('stream');
    const url = PROXY ? new URL(PROXY) : null;
    const proxy = url ? {protocol: 'http', host: url.hostname, port: Number(url.port)} : false;
    const client = require('axios').create({baseURL: BASE, headers, proxy, maxBodyLength: Infinity});
    const json = async (...words) => (await client.request(...words)).data;
    return {
      up: () => json({method: 'POST', url: '/up', data: BODY}),
      down: async () => sha256(await json({url: `/bytes/${BODY.length}`, responseType: 'arraybuffer'})),
      chunked: () => json({method: 'POST', url: '/x', data: Readable.from(pieces())}),
      gzip: () => json({url: '/gzip', responseType: 'text'}),
      sse: () => json({url: '/sse?n=3&every=0.01', responseType: 'text'}),
      parallel: () => Promise.all(numbers.map((n) => json({url: `/n${n}`}))),
      utf8: () => json({url: encodeURI('/grüße?x=ü')}),
    };
  },
  ws: () => ({
    websocket: () => new Promise((resolve, reject) => {
      const {WebSocket} = require('ws');
      const found = [];
      const socket = new WebSocket(`${BASE.replace('http', 'ws')}/ws`, {headers});
      socket.on('error', reject);
      socket.on('open', () => socket.send('grüße'));
      socket.on('message', (data, isBinary) => {
        found.push(isBinary ? sha256(data) : data.toString());
        if (isBinary) { socket.close(); resolve(found); } else socket.send(BODY.subarray(0, 300000));
      });
    }),
  }),
};
(async () => {
  for (const [way, work] of Object.entries(clients[process.argv[2]]())) {
    let found;
    try {
      found = {found: await work()};
    } catch (error) {
      found = {error: String((error.cause && error.cause.stack) || error.stack || error).slice(0, 600)};
    }
    console.log(JSON.stringify({way, ...found}));
  }
  // Not before all of it is written: a pipe takes it bit by bit.
  process.stdout.write('', () => process.exit(0));
})();
