// npm's @google-cloud/storage on the default credentials.
const {Storage} = require('@google-cloud/storage');
const E = process.env;
const listed = async (options) => {
  const storage = new Storage({projectId: 'p', apiEndpoint: E.API_URL, useAuthWithCustomEndpoint: true, ...options});
  const [buckets] = await storage.getBuckets();
  return {said: buckets.length, calls: 'storage'};
};
const ways = {
  metadata_access: () => listed({}),
};
(async () => {
  for (const way of process.argv.slice(2)) {
    let found;
    try {
      found = await ways[way]();
    } catch (error) {
      found = {error: String(error.stack || error)};
    }
    console.log(JSON.stringify({way, ...found}));
  }
})();
