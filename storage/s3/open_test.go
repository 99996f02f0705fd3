package s3_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgtrove/pgtrove/storage"
	"github.com/pgtrove/pgtrove/storage/s3"
	"github.com/pgtrove/pgtrove/test/s3test"
)

const webToken = "token-of-the-web-identity"

const containerToken = "token-of-the-container"

// metadata plays the services that give keys, by their documented protocols: STS, a container's and an instance's. refuse makes each of them fail.
func metadata(t *testing.T, a s3test.Account, refuse bool) string {
	t.Helper()
	keys, err := json.Marshal(map[string]any{
		"Code": "Success", "AccessKeyId": a.AccessKey, "SecretAccessKey": a.SecretKey, "Expiration": time.Now().Add(time.Hour).UTC(),
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, "imds")
	})
	sessions := func(answer []byte) http.HandlerFunc { // version 2 of the instance's service
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-aws-ec2-metadata-token") != "imds" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = w.Write(answer)
		}
	}
	mux.HandleFunc("GET /latest/meta-data/iam/security-credentials/{$}", sessions([]byte("role")))
	mux.HandleFunc("GET /latest/meta-data/iam/security-credentials/role", sessions(keys))
	mux.HandleFunc("GET /container", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keys) })
	mux.HandleFunc("GET /guarded", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != containerToken {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = w.Write(keys)
	})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("RoleArn") != "arn:role" || r.FormValue("WebIdentityToken") != webToken {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
			`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><Expiration>%s</Expiration>`+
			`</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
			a.AccessKey, a.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>`)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// places are the settings of each place that keys can come from; the values of env may hold %s for the service of metadata. service says
// whether it is asked.
func places(t *testing.T, a s3test.Account) map[string]struct {
	env     map[string]string
	options s3.Options
	service bool
} {
	t.Helper()
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	token := file("token", webToken)
	pod := file("pod", containerToken)
	process := file("process", fmt.Sprintf("#!/bin/sh\necho '{\"Version\":1,\"AccessKeyId\":%q,\"SecretAccessKey\":%q}'\n", a.AccessKey, a.SecretKey))
	keys := fmt.Sprintf("aws_access_key_id = %s\naws_secret_access_key = %s\n", a.AccessKey, a.SecretKey)
	wrong := map[string]string{"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
	return map[string]struct {
		env     map[string]string
		options s3.Options
		service bool
	}{
		"options":             {wrong, s3.Options{Credentials: s3.Credentials{AccessKey: a.AccessKey, SecretKey: a.SecretKey}}, false},
		"environment":         {map[string]string{"AWS_ACCESS_KEY_ID": a.AccessKey, "AWS_SECRET_ACCESS_KEY": a.SecretKey}, s3.Options{}, false},
		"credentials file":    {map[string]string{"AWS_SHARED_CREDENTIALS_FILE": file("default", "[default]\n"+keys)}, s3.Options{}, false},
		"named profile":       {map[string]string{"AWS_SHARED_CREDENTIALS_FILE": file("named", "[mine]\n"+keys), "AWS_PROFILE": "mine"}, s3.Options{}, false},
		"profile in config":   {map[string]string{"AWS_CONFIG_FILE": file("config", "[profile mine]\n"+keys), "AWS_PROFILE": "mine"}, s3.Options{}, false},
		"profile before keys": {with(wrong, "AWS_CONFIG_FILE", file("config2", "[profile mine]\n"+keys)), s3.Options{Profile: "mine"}, false},
		"a program":           {map[string]string{"AWS_CONFIG_FILE": file("config3", "[default]\ncredential_process = "+process+" print\n")}, s3.Options{}, false},
		"web identity":        {map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ROLE_ARN": "arn:role", "AWS_ENDPOINT_URL_STS": "%s"}, s3.Options{}, true},
		"a program, alone":    {map[string]string{"AWS_CONFIG_FILE": file("config5", "[default]\ncredential_process = "+process+"\n")}, s3.Options{}, false},
		"a program, for a shell": {map[string]string{"AWS_CONFIG_FILE": file("config6", "[default]\ncredential_process = cd / && '"+process+"' \"a b\"\n")},
			s3.Options{}, false},
		"container with a token": {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "%s/guarded", "AWS_CONTAINER_AUTHORIZATION_TOKEN": containerToken},
			s3.Options{}, true},
		"container with a file":          {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "%s/guarded", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": pod}, s3.Options{}, true},
		"web identity, all at one place": {map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ROLE_ARN": "arn:role", "AWS_ENDPOINT_URL": "%s"}, s3.Options{}, true},
		"container's role":               {map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "%s/container"}, s3.Options{}, true},
		"instance's role":                {map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": "%s"}, s3.Options{}, true},
		"profile web identity":           {map[string]string{"AWS_ENDPOINT_URL_STS": "%s", "AWS_CONFIG_FILE": file("config4", "[default]\nrole_arn = arn:role\nweb_identity_token_file = "+token+"\n")}, s3.Options{}, true},
	}
}

func with(m map[string]string, key, value string) map[string]string {
	out := map[string]string{key: value}
	for k, v := range m {
		out[k] = v
	}
	return out
}

// setenv leaves nothing of AWS's variables but these.
func setenv(t *testing.T, env map[string]string, service string) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	for k, v := range env {
		t.Setenv(k, strings.ReplaceAll(v, "%s", service))
	}
}

func TestKeysComeFromEveryPlace(t *testing.T) {
	server := s3test.New(t, s3test.Options{})
	bucket := server.Bucket()
	service := metadata(t, server.Root, false)
	for name, c := range places(t, server.Root) {
		t.Run(name, func(t *testing.T) {
			setenv(t, c.env, service)
			if c.env["AWS_ENDPOINT_URL"] == "" {
				t.Setenv("AWS_ENDPOINT_URL", server.Endpoint)
			}
			t.Setenv("AWS_ENDPOINT_URL_S3", server.Endpoint)
			c.options.Location = s3.Location{Bucket: bucket, Prefix: strings.Map(func(r rune) rune {
				if r == ' ' || r == '\'' || r == ',' {
					return '-'
				}
				return r
			}, name)}
			put(t, open(t, c.options), "k", "x")
		})
	}
}

func TestKeysThatNobodyGivesAreAnError(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	for how, c := range map[string]struct {
		service string
		want    error
	}{"refused": {metadata(t, s3test.Account{}, true), storage.ErrDenied}, "gone": {gone.URL, storage.ErrUnreachable}} {
		for name, p := range places(t, s3test.Account{AccessKey: "id", SecretKey: "secret"}) {
			if !p.service {
				continue
			}
			t.Run(name+" "+how, func(t *testing.T) {
				setenv(t, p.env, c.service)
				p.options.Location = s3.Location{Bucket: "bucket"}
				p.options.Endpoint = gone.URL
				_, err := open(t, p.options).Get(t.Context(), "k", storage.Range{}, nil)
				wantErr(t, "Get", err, c.want)
				if err != nil && !strings.Contains(err.Error(), "no credentials from") {
					t.Errorf("the error does not say that it is about keys: %v", err)
				}
				if err != nil && strings.Contains(err.Error(), webToken) {
					t.Errorf("the error tells a secret: %v", err)
				}
			})
		}
	}
}

func TestAServerOfAnotherAuthorityIsNotTrusted(t *testing.T) {
	server := s3test.New(t, s3test.Options{TLS: true})
	o := server.Options(server.Bucket(), "", server.Root)
	setenv(t, map[string]string{"AWS_CA_BUNDLE": o.CAFile}, "")
	o.CAFile = ""
	put(t, open(t, o), "k", "x")
	t.Setenv("AWS_CA_BUNDLE", "")
	_, err := open(t, o).Get(t.Context(), "k", storage.Range{}, nil)
	wantErr(t, "Get", err, storage.ErrUnreachable)
	if err != nil && !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the error does not say why: %v", err)
	}
}
