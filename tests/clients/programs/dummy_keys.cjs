// npm's google-auth-library, as it comes, with credentials that are worth nothing: the environment leads it, nothing else.
const fs = require('fs');
const {GoogleAuth, JWT, Impersonated, gaxios} = require('google-auth-library');
const E = process.env;
const scopes = ['https://www.googleapis.com/auth/cloud-platform'];
const key = JSON.parse(fs.readFileSync(E.KEY_FILE));
const jwt = (more) => new JWT({email: key.client_email, key: key.private_key, scopes, ...more});
const acting = () => new Impersonated({
  sourceClient: jwt(), targetPrincipal: 'acted-as@p.iam.gserviceaccount.com', targetScopes: scopes, delegates: []});
const file = (keyFile) => new GoogleAuth({scopes, keyFile}).getClient();

const ways = {
  async key_access() { return (await jwt().getAccessToken()).token; },
  async key_id() { return jwt({scopes: undefined}).fetchIdToken(E.AUDIENCE); },
  async impersonated_access() { return (await acting().getAccessToken()).token; },
  async impersonated_id() { return acting().fetchIdToken(E.AUDIENCE, {includeEmail: true}); },
  async login_access() { return (await (await file(E.LOGIN_FILE)).getAccessToken()).token; },
  async federation_access() { return (await (await file(E.FEDERATION_FILE)).getAccessToken()).token; },
  async federation_acting_access() { return (await (await file(E.FEDERATION_ACTING_FILE)).getAccessToken()).token; },
};
(async () => {
  for (const way of process.argv.slice(2)) {
    let found;
    try {
      const token = await ways[way]();
      const answer = await new gaxios.Gaxios().request({
        url: way.endsWith('_access') ? E.API_URL : E.URL, headers: {authorization: `Bearer ${token}`}});
      found = {token, status: answer.status, said: answer.data};
    } catch (error) {
      found = {error: String(error.stack || error)};
    }
    console.log(JSON.stringify({way, ...found}));
  }
})();
