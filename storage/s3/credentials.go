package s3

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Credentials are keys that somebody states; the zero value means that they are looked for.
type Credentials struct{ AccessKey, SecretKey, SessionToken string }

// Format writes the access key at most, whatever the verb: the rest is secret.
func (c Credentials) Format(f fmt.State, _ rune) {
	if c == (Credentials{}) {
		io.WriteString(f, "(from the environment)") //nolint:errcheck // a State takes everything
		return
	}
	io.WriteString(f, c.AccessKey+":***") //nolint:errcheck // see above
}

// findSource takes the first place that is configured, in the order of AWS's SDKs, and stays with it: keys that are configured wrongly must
// not be passed over for those of the machine. It asks no place for keys. web is how services that are not next door are reached. Errors: ErrOptions.
func findSource(o Options, p profile, region string, web http.RoundTripper) (*source, error) {
	s, err := firstSource(o, p, region, web)
	if err == nil && s.client != nil {
		err = checkServices()
	}
	return s, err
}

func firstSource(o Options, p profile, region string, web http.RoundTripper) (*source, error) {
	id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	switch {
	case o.Credentials != Credentials{}:
		return static("the options", o.Credentials)
	case o.Profile == "" && (id != "" || secret != ""):
		return static(envKeys, Credentials{id, secret, os.Getenv("AWS_SESSION_TOKEN")})
	case o.Profile == "" && os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		return webIdentity("the web identity", profile{}, region, web), nil
	}
	if s, err := p.source(region, web); s != nil || err != nil {
		return s, err
	}
	switch {
	case o.Profile != "":
		return nil, fmt.Errorf("%w: profile %q has no credentials", ErrOptions, p.name)
	case os.Getenv(envContainerPath) != "" || os.Getenv(envContainer) != "":
		return nextDoor("the container's role", &credentials.IAM{}), nil
	case strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true"):
		return nil, fmt.Errorf("%w: there are no credentials: neither in the environment nor in profile %q, and those of the instance "+
			"are turned off", ErrOptions, p.name)
	}
	s := nextDoor("the environment, the profile "+p.name+" or the instance's role", &credentials.IAM{Endpoint: instanceService()})
	s.guess = os.Getenv(envInstanceService) == ""
	return s, nil
}

// envKeys is how keys that stand in the environment are called.
const envKeys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

// Where services that give keys are.
const (
	envInstanceService = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
	envTokenService    = "AWS_ENDPOINT_URL_STS"
	envContainer       = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	envContainerPath   = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
)

// checkServices makes sure that what the environment says of such services can be asked: the first request finds out else, and no waiting mends it.
func checkServices() error {
	for _, name := range []string{envInstanceService, envTokenService, "AWS_ENDPOINT_URL", envContainer} {
		text := os.Getenv(name)
		if u, err := url.Parse(text); text != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			return fmt.Errorf("%w: %s is no URL that begins with https:// or http://", ErrOptions, name) // and may hold a password
		}
	}
	if path := os.Getenv(envContainerPath); path != "" && !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%w: %s does not begin with a slash", ErrOptions, envContainerPath)
	}
	return nil
}

// source is the place that a profile names; nil if it names none. What it names and we cannot do is an error: other keys than those that were
// meant would be worse than none.
func (p profile) source(region string, web http.RoundTripper) (*source, error) {
	no := func(format string, args ...any) (*source, error) {
		return nil, fmt.Errorf("%w: profile %q "+format, append([]any{ErrOptions, p.name}, args...)...)
	}
	has := func(keys ...string) bool {
		for _, k := range keys {
			if p.get(k) != "" {
				return true
			}
		}
		return false
	}
	switch {
	case has("role_arn") && has("web_identity_token_file"):
		for _, name := range []string{"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"} {
			if os.Getenv(name) != "" { // the library would take that one
				return no("has a web identity, and %s names another: unset it", name)
			}
		}
		return webIdentity("the web identity of profile "+p.name, p, region, web), nil
	case has("role_arn"):
		return no("assumes a role with the keys of another place, which is not supported: let credential_process do it")
	case has("aws_access_key_id", "aws_secret_access_key"):
		return static("profile "+p.name, Credentials{p.get("aws_access_key_id"), p.get("aws_secret_access_key"), p.get("aws_session_token")})
	case has("sso_session", "sso_start_url", "sso_account_id", "sso_role_name"):
		return &source{provider: &credentials.FileAWSCredentials{Profile: p.name}, name: "profile " + p.name, client: service(web, stsTimeout)}, nil
	case has("credential_process"):
		return &source{provider: &process{command: p.get("credential_process")}, name: "the credential_process of profile " + p.name}, nil
	case has("login_session"):
		return no("has the keys of `aws login`, which are not supported: credential_process = aws configure export-credentials --format process gives them")
	}
	return nil, nil
}

// static are keys that stand in a setting. ErrOptions: half of them does.
func static(name string, c Credentials) (*source, error) {
	if c.AccessKey == "" || c.SecretKey == "" {
		return nil, fmt.Errorf("%w: %w", ErrOptions, &credentialError{name: name, err: errNoKeys})
	}
	return &source{provider: &credentials.Static{Value: credentials.Value{
		AccessKeyID: c.AccessKey, SecretAccessKey: c.SecretKey, SessionToken: c.SessionToken, SignerType: credentials.SignatureV4,
	}}, name: name}, nil
}

// webIdentity changes a token for keys, at AWS or at the service that the environment names.
func webIdentity(name string, p profile, region string, web http.RoundTripper) *source {
	iam := &credentials.IAM{Region: region, Endpoint: first(os.Getenv(envTokenService), os.Getenv("AWS_ENDPOINT_URL"))}
	iam.EKSIdentity.RoleARN, iam.EKSIdentity.TokenFile = p.get("role_arn"), p.get("web_identity_token_file")
	iam.EKSIdentity.RoleSessionName = p.get("role_session_name")
	return &source{provider: iam, name: name, client: service(web, stsTimeout)}
}

// nextDoor asks a service of the machine or the container, which no proxy is between.
func nextDoor(name string, provider credentials.Provider) *source {
	return &source{provider: provider, name: name, client: service(&http.Transport{}, metadataTimeout)}
}

// instanceService is where an instance's role gives its keys; "" is the usual address.
func instanceService() string {
	if e := strings.TrimSuffix(os.Getenv(envInstanceService), "/"); e != "" {
		return e
	}
	if strings.EqualFold(os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"), "ipv6") {
		return "http://[fd00:ec2::254]"
	}
	return ""
}
