// golang.org/x/oauth2/google and cloud.google.com/go/compute/metadata, as Debian has them.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"cloud.google.com/go/compute/metadata"
	"golang.org/x/oauth2/google"
)

type found map[string]interface{}

func fromFile(name string) (found, error) {
	data, err := os.ReadFile(env(name))
	if err != nil {
		return nil, err
	}
	return fromJSON(leading(), data)
}

func federation(source string) func() (found, error) {
	return func() (found, error) {
		data, err := os.ReadFile(env("FEDERATION_" + source + "_FILE"))
		if err != nil {
			return nil, err
		}
		return fromJSON(leading(), []byte(withGoogles(string(data))))
	}
}

func fromJSON(ctx context.Context, data []byte) (found, error) {
	credentials, err := google.CredentialsFromJSON(ctx, data, env("SCOPE"))
	if err != nil {
		return nil, err
	}
	token, err := credentials.TokenSource.Token()
	if err != nil {
		return nil, err
	}
	return found{"access_token": token.AccessToken}, nil
}

var ways = map[string]func() (found, error){
	"metadata_access": func() (found, error) {
		credentials, err := google.FindDefaultCredentials(context.Background(), env("SCOPE"))
		if err != nil {
			return nil, err
		}
		token, err := credentials.TokenSource.Token()
		if err != nil {
			return nil, err
		}
		return found{"access_token": token.AccessToken, "project": credentials.ProjectID}, nil
	},
	"metadata_id": func() (found, error) {
		token, err := metadata.Get("instance/service-accounts/default/identity?format=full&audience=" + env("AUDIENCE"))
		return found{"id_token": token}, err
	},
	"metadata_tree": func() (found, error) {
		zone, err := metadata.Zone()
		if err != nil {
			return nil, err
		}
		id, err := metadata.InstanceID()
		if err != nil {
			return nil, err
		}
		scopes, err := metadata.Scopes("")
		if err != nil {
			return nil, err
		}
		email, err := metadata.Email("")
		if err != nil {
			return nil, err
		}
		attributes, err := metadata.InstanceAttributes()
		if err != nil {
			return nil, err
		}
		project, err := metadata.ProjectID()
		return found{"said": fmt.Sprint(zone, id, scopes, email, attributes), "project": project}, err
	},
	"key_access":         func() (found, error) { return fromFile("KEY_FILE") },
	"login":              func() (found, error) { return fromFile("LOGIN_FILE") },
	"impersonated_file":  func() (found, error) { return fromFile("IMPERSONATED_FILE") },
	"federation":         federation("URL"),
	"federation_text":    federation("TEXT"),
	"federation_aws":     federation("AWS"),
	"federation_program": federation("PROGRAM"),
	"self_signed": func() (found, error) {
		data, err := os.ReadFile(env("KEY_FILE"))
		if err != nil {
			return nil, err
		}
		source, err := google.JWTAccessTokenSourceFromJSON(data, env("API_AUDIENCE"))
		if err != nil {
			return nil, err
		}
		token, err := source.Token()
		if err != nil {
			return nil, err
		}
		return found{"self_signed": token.AccessToken}, nil
	},
	"self_signed_scope": func() (found, error) {
		data, err := os.ReadFile(env("KEY_FILE"))
		if err != nil {
			return nil, err
		}
		source, err := google.JWTAccessTokenSourceWithScope(data, env("SCOPE"))
		if err != nil {
			return nil, err
		}
		token, err := source.Token()
		if err != nil {
			return nil, err
		}
		return found{"self_signed": token.AccessToken}, nil
	},
}

func main() {
	for _, way := range os.Args[1:] {
		answer, err := ways[way]()
		if err != nil {
			answer = found{"error": err.Error()}
		}
		answer["way"] = way
		json.NewEncoder(os.Stdout).Encode(answer)
	}
}
