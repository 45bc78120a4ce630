// A certified authorization server, with clients whose refresh tokens live differently.
// usage: MODULES=node_modules ISSUER=http://127.0.0.1:PORT CLIENT_JWKS='{"keys":[…]}' REDIRECT=URL node oidc-provider.mjs
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

// Where `make tools` installs it.
const modules = createRequire(`${process.env.MODULES}/`);
const { default: Provider } = await import(pathToFileURL(modules.resolve('oidc-provider')));

const { ISSUER, CLIENT_JWKS, REDIRECT } = process.env;
const IDLE_S = 3;
const AGE_S = 6;

const client = (client_id, more) => ({
  client_id,
  client_secret: 'interop-secret',
  grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
  redirect_uris: [REDIRECT],
  ...more,
});

const provider = new Provider(ISSUER, {
  clients: [
    client('always'),
    client('never'),
    client('age'),
    client('idle'),
    client('public', {
      client_secret: undefined,
      grant_types: ['authorization_code', 'refresh_token'],
      token_endpoint_auth_method: 'none',
    }),
    client('signed', {
      client_secret: undefined,
      token_endpoint_auth_method: 'private_key_jwt',
      jwks: JSON.parse(CLIENT_JWKS),
    }),
  ],
  // By age is what it does if nothing else is said: after 70 % of a token's life.
  rotateRefreshToken: ({ oidc: { client: { clientId }, entities: { RefreshToken: token } } }) => {
    if (clientId === 'never' || clientId === 'idle') return false;
    return clientId !== 'age' || token.ttlPercentagePassed() >= 70;
  },
  issueRefreshToken: () => true,
  ttl: {
    AccessToken: 3600,
    ClientCredentials: 3600,
    RefreshToken: (_ctx, _token, { clientId }) =>
      ({ idle: IDLE_S, age: AGE_S })[clientId] ?? 86400,
  },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    revocation: { enabled: true, allowedPolicy: () => true },
  },
  scopes: ['openid', 'offline_access', 'api'],
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  renderError: (ctx, out) => { ctx.body = out; },
  pkce: { required: () => true },
});
provider.on('server_error', (_ctx, error) => console.error(error));
const server = provider.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
