// A real, certified OpenID Provider on loopback, for the end-to-end tests.
//
// It listens on a port that the kernel chooses and prints it as the first
// line; then it reads one line, the relying party's origins as a JSON list,
// and serves. It ends when its standard input does. In its environment,
// ACCESS_TOKEN_SECONDS is how long access tokens live, and CLIENT_KEY a file
// with the key of the client "signed".
import * as http from 'node:http';
import * as readline from 'node:readline';
import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Provider } from 'oidc-provider';

const secret = 'secret-secret-secret-secret-secret';
const accessTokenSeconds = Number(process.env.ACCESS_TOKEN_SECONDS ?? 3600);

let handler = (_req, res) => res.writeHead(503).end(); // until it knows whom it serves
const server = http.createServer((req, res) => handler(req, res));
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })));

const input = readline.createInterface({ input: process.stdin });
input.once('line', (line) => serve(JSON.parse(line)));
input.once('close', () => process.exit(0));

function key(type, options, extra) {
  return { ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), use: 'sig', ...extra };
}

function serve(origins) {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const client = {
    redirect_uris: origins.map((origin) => `${origin}/oauth2/callback`),
    post_logout_redirect_uris: origins.map((origin) => `${origin}/oauth2/signed-out`),
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    application_type: 'web',
  };
  // With one of these, logging out at the provider logs out of the other, too.
  const linked = (prefix) => ({
    ...client, token_endpoint_auth_method: 'none', redirect_uris: origins.map((origin) => `${origin}${prefix}/callback`),
    post_logout_redirect_uris: origins.map((origin) => `${origin}${prefix}/signed-out`),
    backchannel_logout_uri: `${origins[0]}${prefix}/backchannel-logout`, backchannel_logout_session_required: true,
  });
  const signed = process.env.CLIENT_KEY ? [{
    ...client, client_id: 'signed', token_endpoint_auth_method: 'private_key_jwt',
    jwks: { keys: [createPublicKey(readFileSync(process.env.CLIENT_KEY)).export({ format: 'jwk' })] },
  }] : [];
  const provider = new Provider(issuer, {
    clients: [
      ...signed,
      { ...linked('/oauth2/mail'), client_id: 'mail' },
      { ...linked('/oauth2/files'), client_id: 'files' },
      { ...client, client_id: 'public', token_endpoint_auth_method: 'none' },
      { ...client, client_id: 'basic', client_secret: secret, token_endpoint_auth_method: 'client_secret_basic' },
      { ...client, client_id: 'post', client_secret: secret, token_endpoint_auth_method: 'client_secret_post' },
      { ...client, client_id: 'es256', token_endpoint_auth_method: 'none', id_token_signed_response_alg: 'ES256' },
    ],
    jwks: {
      keys: [
        key('rsa', { modulusLength: 2048 }, { alg: 'RS256', kid: 'rsa' }),
        key('ec', { namedCurve: 'P-256' }, { alg: 'ES256', kid: 'ec' }),
      ],
    },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256'] },
    scopes: ['openid', 'offline_access', 'profile', 'email', 'read', 'write'],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'groups'] },
    conformIdTokenClaims: false, // put the claims of the scopes into the ID token
    pkce: { required: () => true },
    extraParams: ['audience', 'connection'],
    findAccount: (_ctx, id) => ({
      accountId: id,
      claims: () => ({
        sub: id, name: `User ${id}`, email: `${id}@example.test`, email_verified: true, groups: ['staff', 'admin'],
      }),
    }),
    cookies: { keys: ['a key for tests'] },
    fetch: (url, { dispatcher: _, ...options }) => globalThis.fetch(url, options), // its own does not call loopback
    rotateRefreshToken: true, // and a second use of one revokes the grant
    ttl: { AccessToken: accessTokenSeconds, RefreshToken: 86400, IdToken: 3600, Grant: 86400, Session: 86400, Interaction: 3600 },
    features: {
      devInteractions: { enabled: true }, // its own login form
      rpInitiatedLogout: { enabled: true },
      backchannelLogout: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        // Auth0's `audience` as well as RFC 8707's `resource`
        defaultResource: (ctx, _client, oneOf) => oneOf ?? ctx.oidc.params?.audience,
        useGrantedResource: () => true,
        getResourceServerInfo: (_ctx, resource) => ({
          scope: 'read write', audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: accessTokenSeconds, jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
  });
  const events = [
    'authorization.success', 'authorization.error', 'grant.success', 'grant.error', 'grant.revoked', 'end_session.success',
    'end_session.error', 'backchannel.success', 'backchannel.error', 'revocation.error', 'server_error',
  ];
  for (const event of events) {
    provider.on(event, (ctx, err) => console.log(JSON.stringify({
      event, client: ctx?.oidc?.client?.clientId, grant: ctx?.oidc?.params?.grant_type, error: err instanceof Error ? `${err.message}: ${err.error_description ?? ''}` : undefined,
    })));
  }
  handler = provider.callback();
  console.log(JSON.stringify({ issuer }));
}
