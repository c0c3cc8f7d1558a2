// npm's google-auth-library and gcp-metadata, as they come. Their addresses of Google's can't be set for keys: the
// transporter, which is public, leads those calls to the stand-in.
const fs = require('fs');
const {GoogleAuth, JWT, Impersonated, UserRefreshClient, gaxios} = require('google-auth-library');
const metadata = require('gcp-metadata');
const E = process.env;

const elsewhere = (url) => String(url)
  .replace('https://oauth2.googleapis.com/token', E.OAUTH_URL)
  .replace('https://www.googleapis.com/oauth2/v4/token', E.OAUTH_URL)
  .replace('https://iamcredentials.googleapis.com', E.IAM_URL);
const transporter = new gaxios.Gaxios();
transporter.interceptors.request.add({resolved: async (options) => {
  options.url = new URL(elsewhere(options.url));
  return options;
}});
const scopes = [E.SCOPE];
const key = () => JSON.parse(fs.readFileSync(E.KEY_FILE));
const jwt = (more) => new JWT({email: key().client_email, key: key().private_key, scopes, transporter, ...more});
const fromFile = async (keyFile) => {
  const client = await new GoogleAuth({scopes, keyFile}).getClient();
  if (client.sourceClient) client.sourceClient.transporter = transporter;
  return {access_token: (await client.getAccessToken()).token};
};
const federation = (name) => fromFile(E[`FEDERATION_${name}_FILE`]);

const ways = {
  async metadata_access() {
    const auth = new GoogleAuth({scopes});
    const client = await auth.getClient();
    return {access_token: (await client.getAccessToken()).token, project: await auth.getProjectId()};
  },
  async metadata_id() {
    const client = await new GoogleAuth().getIdTokenClient(E.AUDIENCE);
    const headers = await client.getRequestHeaders();
    const value = headers.get ? headers.get('authorization') : headers.Authorization;
    return {id_token: value.split(' ')[1]};
  },
  async metadata_tree() {
    if (!(await metadata.isAvailable())) throw new Error('gcp-metadata finds no metadata server');
    const found = await metadata.instance();
    return {said: Object.keys(found).join(','), project: await metadata.project('project-id')};
  },
  async key_access() {
    return {access_token: (await jwt().getAccessToken()).token};
  },
  async key_id() {
    return {id_token: await jwt({scopes: undefined}).fetchIdToken(E.AUDIENCE)};
  },
  async self_signed() {
    const client = new JWT({email: key().client_email, key: key().private_key, keyId: key().private_key_id});
    const headers = await client.getRequestHeaders(E.API_AUDIENCE);
    const value = headers.get ? headers.get('authorization') : headers.Authorization;
    return {self_signed: value.split(' ')[1]};
  },
  async login() {
    const client = new UserRefreshClient({transporter});
    client.fromJSON(JSON.parse(fs.readFileSync(E.LOGIN_FILE)));
    const {tokens} = await client.refreshToken(client._refreshToken);
    return {access_token: tokens.access_token, login_token: tokens.id_token};
  },
  federation: () => federation('URL'),
  federation_text: () => federation('TEXT'),
  federation_aws: () => federation('AWS'),
  federation_program: () => federation('PROGRAM'),
  impersonated_file: () => fromFile(E.IMPERSONATED_FILE),
  async impersonated_access() {
    const client = new Impersonated({
      sourceClient: jwt(), targetPrincipal: E.TARGET, targetScopes: scopes, delegates: [], endpoint: E.IAM_URL});
    return {access_token: (await client.getAccessToken()).token};
  },
  async impersonated_id() {
    const client = new Impersonated({
      sourceClient: jwt(), targetPrincipal: E.TARGET, targetScopes: scopes, delegates: [], endpoint: E.IAM_URL});
    return {id_token: await client.fetchIdToken(E.AUDIENCE, {includeEmail: true})};
  },
  async impersonated_sign() {
    const client = new Impersonated({
      sourceClient: jwt(), targetPrincipal: E.TARGET, targetScopes: scopes, delegates: [], endpoint: E.IAM_URL});
    return {signature: (await client.sign(E.TO_SIGN)).signedBlob};
  },
  async metadata_sign() {
    const endpoint = `${E.IAM_URL}/v1/projects/-/serviceAccounts/`;
    return {signature: await new GoogleAuth({scopes}).sign(E.TO_SIGN, endpoint)};
  },
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
