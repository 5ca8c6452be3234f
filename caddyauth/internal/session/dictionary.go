package session

// dictionary primes the compressor with what the tokens of the common providers
// have in common, marks of noise included (see noise.go); what comes last is
// found cheapest. It is part of version 3 of the codec: changing a byte of it
// makes all sessions unreadable.
var dictionary = []byte(
	// Amazon Cognito
	`"cognito:groups":["","cognito:username":"","origin_jti":"` + guid + `","event_id":"` + guid + `","token_use":"access","client_id":"","username":"","token_use":"id",` +
		`"iss":"https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_` +
		// Okta
		`{"kid":"","alg":"RS256"}{"ver":1,"jti":"AT.","iss":"https://.okta.com/oauth2/default","aud":"api://default","iat":18,"exp":18,"cid":"0oa","uid":"00u",` +
		`"scp":["openid","profile","email","offline_access"],"auth_time":18,"groups":["Everyone","amr":["pwd","mfa","otp"],"idp":"00o","jti":"ID.` +
		// Google
		`{"iss":"https://accounts.google.com","azp":".apps.googleusercontent.com","hd":"","at_hash":"` + text20 + `","picture":"https://lh3.googleusercontent.com/a/=s96-c","locale":"en","phone_number":"+` +
		// Auth0
		`,"org_id":"org_` + `","org_name":"","gty":"password","https://.com/roles":["admin","user","roles":["admin","read:","write:","create:","update:","delete:` +
		`","nickname":"","name":"","picture":"https://s.gravatar.com/avatar/` + hex32 + `?s=480&r=pg&d=https%3A%2F%2Fcdn.auth0.com%2Favatars%2F.png","updated_at":"202-0T:Z",` +
		`"email":"@","email_verified":true,"iss":"https://.eu.auth0.com/","aud":"` + text32 + `","sub":"auth0|` + hex24 + `","iat":18,"exp":18,"sid":"` + text32 + `","nonce":"` + text40 +
		`"}{"alg":"RS256","typ":"at+jwt","kid":"{"alg":"RS256","typ":"JWT","kid":"` + text20 + `"}{"iss":"https://.us.auth0.com/","sub":"google-oauth2|` +
		`","aud":["https://api.","https://.eu.auth0.com/userinfo"],"iat":18,"exp":18,"scope":"openid profile email offline_access","azp":"` + again + `","permissions":["read:` +
		// Microsoft Entra ID
		`{"ver":"2.0","iss":"https://login.microsoftonline.com/` + guid + `/v2.0","aud":"` + guid + `","iss":"https://login.microsoftonline.com/` + guid + `/v2.0","iat":18,"nbf":18,"exp":18,` +
		`"email":"@.onmicrosoft.com","groups":["` + guid + `","` + guid + `","` + guid + `","` + guid + `"],"name":"","nonce":"` + text40 + `","oid":"` + guid + `","preferred_username":"@.com","rh":"1.` + text52 + `","roles":["` +
		`","sid":"` + guid + `","sub":"` + text40 + `","tid":"` + again2 + `","uti":"` + text20 + `","ver":"2.0"}{"typ":"JWT","alg":"RS256","x5t":"` + text24 + `","kid":"` + again +
		`"}{"aud":"api://` + again1 + `","iss":"https://sts.windows.net/` + next + `/","iat":18,"nbf":18,"exp":18,"acct":0,"acr":"1","aio":"` + text88 + `","amr":["pwd","rsa","mfa"],"azp":"","azpacr":"1","appid":"` + again1 +
		`","appidacr":"1","family_name":"","given_name":"","groups":["` + again3 + `","` + next + `","` + next + `","` + next + `","` + next + `"],"idtyp":"user","ipaddr":".","name":"","oid":"` + again +
		`","rh":"1.` + text52 + `","scp":"User.Read","sid":"` + again + `","sub":"` + text40 + `","tid":"` + again2 + `","unique_name":"@.com","upn":"@.com","uti":"` + text20 + `","ver":"1.0","wids":["` + guid + `"],"xms_ftd":"` +
		// Keycloak
		`{"exp":18,"iat":18,"auth_time":18,"jti":"` + guid + `","iss":"https://login./realms/` + `","aud":"account","sub":"` + guid + `","typ":"ID","azp":"` +
		`","nonce":"` + text40 + `","sid":"` + guid + `","at_hash":"` + text20 + `","acr":"1","groups":["/"],"email_verified":false,"{"alg":"ES256","typ" : "JWT","kid" : "{"alg":"RS256","typ" : "JWT","kid" : "` + text40 +
		`"}{"exp":18,"iat":18,"auth_time":18,"jti":"onrtac:` + guid + `","iss":"https://auth./realms/` + `","aud":["account"],"sub":"` + again1 + `","typ":"Bearer","azp":"` + `","sid":"` + next +
		`","acr":"1","allowed-origins":["https://"],"realm_access":{"roles":["offline_access","uma_authorization","default-roles-"]},"resource_access":{"` +
		`":{"roles":["admin","manager","viewer","editor"]},"account":{"roles":["manage-account","manage-account-links","view-profile"]}},` +
		`"scope":"openid email profile offline_access","email_verified":true,"name":"","preferred_username":"","given_name":"","family_name":"","email":"@.com"}` + "\x80\x02" +
		`openid profile email offline_access` + `{"alg":"HS512","typ" : "JWT","kid" : "` + guid + `"}` + `"typ":"Refresh","typ":"Offline","scope":"openid roles basic acr web-origins`)

// Noise as it stands among words: so many characters of base64url, or hexadecimal
// digits, a GUID, and what was there before.
const (
	text20 = "\x01\x05"
	text24 = "\x01\x06"
	text32 = "\x01\x08"
	text40 = "\x01\x0a"
	text52 = "\x01\x0d"
	text88 = "\x01\x16"
	hex24  = "\x02\x0c"
	hex32  = "\x02\x10"
	guid   = "\x03"
	next   = "\x04"
	again  = "\x05"
	again1 = "\x05\x01"
	again2 = "\x05\x02"
	again3 = "\x05\x03"
)
