// google.golang.org/api's idtoken and impersonate, as Debian has them.
package main

import (
	"context"
	"encoding/json"
	"net/http"
	"os"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/idtoken"
	"google.golang.org/api/impersonate"
	"google.golang.org/api/option"
)

type source func(context.Context) (oauth2.TokenSource, error)

// acting is who may act as the target: the key's account.
func acting(ctx context.Context) (option.ClientOption, error) {
	data, err := os.ReadFile(env("KEY_FILE"))
	if err != nil {
		return nil, err
	}
	key, err := google.CredentialsFromJSON(ctx, data, env("SCOPE"))
	if err != nil {
		return nil, err
	}
	transport := &oauth2.Transport{Source: key.TokenSource, Base: elsewhere{}}
	return option.WithHTTPClient(&http.Client{Transport: transport}), nil
}

var ways = map[string]struct {
	called string
	source source
}{
	"metadata_id": {"id_token", func(ctx context.Context) (oauth2.TokenSource, error) {
		return idtoken.NewTokenSource(ctx, env("AUDIENCE"))
	}},
	"key_id": {"id_token", func(ctx context.Context) (oauth2.TokenSource, error) {
		return idtoken.NewTokenSource(ctx, env("AUDIENCE"), idtoken.WithCredentialsFile(env("KEY_FILE")))
	}},
	"impersonated_access": {"access_token", func(ctx context.Context) (oauth2.TokenSource, error) {
		key, err := acting(ctx)
		if err != nil {
			return nil, err
		}
		config := impersonate.CredentialsConfig{TargetPrincipal: env("TARGET"), Scopes: []string{env("SCOPE")}}
		return impersonate.CredentialsTokenSource(ctx, config, key)
	}},
	"impersonated_id": {"id_token", func(ctx context.Context) (oauth2.TokenSource, error) {
		key, err := acting(ctx)
		if err != nil {
			return nil, err
		}
		config := impersonate.IDTokenConfig{
			Audience: env("AUDIENCE"), TargetPrincipal: env("TARGET"), IncludeEmail: true,
		}
		return impersonate.IDTokenSource(ctx, config, key)
	}},
}

func main() {
	for _, way := range os.Args[1:] {
		answer := map[string]interface{}{"way": way}
		tokens, err := ways[way].source(context.Background())
		if err == nil {
			token, failed := tokens.Token()
			if failed == nil {
				answer[ways[way].called] = token.AccessToken
			}
			err = failed
		}
		if err != nil {
			answer["error"] = err.Error()
		}
		json.NewEncoder(os.Stdout).Encode(answer)
	}
}
