package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/pgtrove/pgtrove/storage"
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

// metadataTimeout is how long the services of a machine or a container may take; they are next door.
const metadataTimeout = 5 * time.Second

// stsTimeout is how long the service that changes tokens into keys may take.
const stsTimeout = 30 * time.Second

// source says which of the places for keys it is, and never gives none: without keys minio-go would go on as an anonymous caller.
type source struct {
	credentials.Provider
	name string
	// guess: nobody configured it, and most machines do not have it.
	guess bool
}

// credentialError is a failure to get keys, as opposed to one of their use.
type credentialError struct {
	name   string
	err    error
	lookup bool // whether the place is there was not known
}

func (e *credentialError) Error() string {
	return "no credentials from " + e.name + ": " + e.err.Error()
}
func (e *credentialError) Unwrap() error { return e.err }

// class: the service that gives keys may be down, or may refuse them.
func (e *credentialError) class() error {
	var answer credentials.ErrorResponse
	if !e.lookup && !errors.As(e.err, &answer) && isNetwork(e.err) {
		return storage.ErrUnreachable
	}
	return storage.ErrDenied
}

var errNoKeys = errors.New("a key and its secret are not both there")

// RetrieveWithCredContext implements credentials.Provider.
func (s source) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	v, err := s.Provider.RetrieveWithCredContext(cc)
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		err = errNoKeys
	}
	if err != nil {
		return credentials.Value{}, &credentialError{name: s.name, err: err}
	}
	v.SignerType = credentials.SignatureV4
	return v, nil
}

// Retrieve implements credentials.Provider.
func (s source) Retrieve() (credentials.Value, error) { return s.RetrieveWithCredContext(nil) }

// findCredentials takes the first place that is configured, in the order of AWS's SDKs, and stays with it: keys that are configured wrongly must
// not be passed over for those of the machine.
func findCredentials(ctx context.Context, o Options, p profile, region string) (*credentials.Credentials, error) {
	s, err := findSource(o, p, region)
	if err != nil {
		return nil, err
	}
	keys := credentials.New(s)
	if _, err := keys.GetWithContext(&credentials.CredContext{Client: &http.Client{Timeout: stsTimeout}, Context: ctx}); err != nil {
		var none *credentialError
		if errors.As(err, &none) {
			none.lookup = s.guess
		}
		return nil, err
	}
	return keys, nil
}

func findSource(o Options, p profile, region string) (source, error) {
	id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	switch {
	case o.Credentials != Credentials{}:
		return static("the options", o.Credentials), nil
	case o.Profile == "" && (id != "" || secret != ""):
		return static("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", Credentials{id, secret, os.Getenv("AWS_SESSION_TOKEN")}), nil
	case o.Profile == "" && os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		return source{Provider: role(region, os.Getenv("AWS_ENDPOINT_URL_STS"), stsTimeout), name: "the web identity"}, nil
	case p.get("role_arn") != "" && p.get("web_identity_token_file") != "":
		iam := role(region, os.Getenv("AWS_ENDPOINT_URL_STS"), stsTimeout)
		iam.EKSIdentity.RoleARN, iam.EKSIdentity.TokenFile = p.get("role_arn"), p.get("web_identity_token_file")
		iam.EKSIdentity.RoleSessionName = p.get("role_session_name")
		return source{Provider: iam, name: "the web identity of profile " + p.name}, nil
	case p.get("role_arn") != "":
		return source{}, fmt.Errorf("%w: profile %q assumes a role from another profile, which is not supported: "+
			"let credential_process do it", ErrOptions, p.name)
	case p.get("aws_access_key_id") != "" || p.get("credential_process") != "" || p.get("sso_role_name") != "":
		return source{Provider: &credentials.FileAWSCredentials{Profile: p.name}, name: "profile " + p.name}, nil
	case o.Profile != "":
		return source{}, fmt.Errorf("%w: profile %q has no credentials", ErrOptions, p.name)
	case os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "" || os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "":
		return source{Provider: role(region, "", metadataTimeout), name: "the container's role"}, nil
	case os.Getenv("AWS_EC2_METADATA_DISABLED") == "true":
		return source{}, fmt.Errorf("%w: there are no credentials: neither in the environment nor in profile %q, and those of the instance "+
			"are turned off", ErrOptions, p.name)
	}
	return source{Provider: role(region, os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), metadataTimeout),
		name: "the environment, the profile " + p.name + " or the instance's role", guess: true}, nil
}

func static(name string, c Credentials) source {
	return source{Provider: &credentials.Static{Value: credentials.Value{
		AccessKeyID: c.AccessKey, SecretAccessKey: c.SecretKey, SessionToken: c.SessionToken, SignerType: credentials.SignatureV4,
	}}, name: name}
}

// role asks the service that the environment names, or that of the instance.
func role(region, endpoint string, timeout time.Duration) *credentials.IAM {
	return &credentials.IAM{Client: &http.Client{Timeout: timeout}, Region: region, Endpoint: endpoint}
}
