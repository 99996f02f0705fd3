package s3

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/pgtrove/pgtrove/storage"
)

// Options say which storage is meant and how to talk to it. All but Location may be empty: then the AWS_* environment and the shared config file
// say it, as they do for AWS's own tools, and else it has the default given here.
type Options struct {
	Location Location
	Endpoint string // URL; AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, endpoint_url of the profile; default AWS
	// Region: AWS_REGION, AWS_DEFAULT_REGION, region of the profile; default us-east-1, and on AWS what a request for the bucket's
	// location answers, once for each Store.
	Region       string
	Profile      string // AWS_PROFILE; default "default". One that is named here comes before keys in the environment
	Home         string // directory that .aws is in, with the profiles, if no variable names their files; "": none is looked for
	Credentials  Credentials
	Addressing   Addressing // addressing_style in the s3 settings of the profile
	CAFile       string     // PEM; AWS_CA_BUNDLE, ca_bundle of the profile; default the system's
	StorageClass string     // of what is written; default the bucket's
	// Encrypt is what the server encrypts with: "" (the bucket's default), "s3" (SSE-S3), "kms" (SSE-KMS with AWS's key), or "kms:KEY".
	Encrypt string
	// Checksum that every PUT carries: "crc32c" (default), "md5", or "none", which is the default with
	// AWS_REQUEST_CHECKSUM_CALCULATION, or request_checksum_calculation of the profile, when_required.
	Checksum string
	// ObjectLock is for how long nobody may delete what is written (governance mode); 0: no retention but what the bucket sets.
	ObjectLock time.Duration
	// Patience is how long a connection may stand still before it counts as lost. 0: a minute.
	Patience time.Duration
	// Wrap stands between the library and the network, and may take its time (storage/limit). nil: nothing does.
	Wrap func(http.RoundTripper) http.RoundTripper
}

// Addressing says where the bucket stands in a request.
type Addressing string

// The ways to name a bucket. The zero value is AddressPath for all endpoints but those of AWS.
const (
	AddressAuto Addressing = ""
	AddressPath Addressing = "path" // https://host/bucket/key
	AddressHost Addressing = "host" // https://bucket.host/key
)

// Open makes ready to use the storage, and sends nothing to anybody. The first call of the Store gets the credentials, so that who tries calls again
// tries that again too: it fails with storage.ErrDenied when nobody gives any, and with storage.ErrUnreachable when the service that gives them
// does not answer.
//
// Errors: ErrOptions, for settings that cannot work. None holds a secret.
func Open(o Options) (*Store, error) {
	p, err := loadProfile(o.Profile, o.Home)
	if err != nil {
		return nil, err
	}
	put, err := o.putSettings(p)
	if err != nil {
		return nil, err
	}
	endpoint, err := o.endpoint(p)
	if err != nil {
		return nil, err
	}
	if o.Addressing == AddressAuto {
		o.Addressing = p.addressing()
	}
	lookup, err := o.lookup(endpoint)
	if err != nil {
		return nil, err
	}
	patience := o.Patience
	if patience == 0 {
		patience = defaultPatience
	}
	transport, err := newTransport(first(o.CAFile, os.Getenv("AWS_CA_BUNDLE"), p.get("ca_bundle")), patience)
	if err != nil {
		return nil, err
	}
	web := transport // no object passes there
	if o.Wrap != nil {
		transport = o.Wrap(transport)
	}
	region := o.region(p, endpoint)
	keys, err := findSource(o, p, region, web)
	if err != nil {
		return nil, err
	}
	secure := endpoint.Scheme == "https"
	core, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds: credentials.New(keys), Secure: secure, Transport: transport, Region: region, BucketLookup: lookup,
		MaxRetries: 1, // storage's callers know what a repeated call may find; the library does not
	})
	if err != nil {
		return nil, fmt.Errorf("%w: endpoint: %w", ErrOptions, err)
	}
	core.SetS3EnableDualstack(strings.EqualFold(first(os.Getenv("AWS_USE_DUALSTACK_ENDPOINT"), p.get("use_dualstack_endpoint")), "true"))
	s := &Store{core: *core, bucket: o.Location.Bucket, put: put}
	s.put.sign = !secure
	if o.Location.Prefix != "" {
		s.prefix = o.Location.Prefix + "/"
	}
	return s, nil
}

// endpoint is where requests go: scheme and host.
func (o Options) endpoint(p profile) (*url.URL, error) {
	s := first(o.Endpoint, os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"))
	if s == "" && os.Getenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") != "true" {
		s = first(p.s3["endpoint_url"], p.get("endpoint_url"))
	}
	if fips := first(os.Getenv("AWS_USE_FIPS_ENDPOINT"), p.get("use_fips_endpoint")); s == "" && strings.EqualFold(fips, "true") {
		return nil, fmt.Errorf("%w: an endpoint of the FIPS kind is asked for, and has to be stated, as https://s3-fips.REGION.amazonaws.com", ErrOptions)
	}
	if s == "" {
		return &url.URL{Scheme: "https", Host: "s3.amazonaws.com"}, nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%w: the endpoint is no URL of the form https://host:port", ErrOptions) // and may hold a password
	case u.User != nil:
		return nil, fmt.Errorf("%w: keys do not belong into the endpoint's URL", ErrOptions)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%w: the endpoint %s has more than scheme, host and port", ErrOptions, u.Redacted())
	}
	return u, nil
}

func (o Options) region(p profile, endpoint *url.URL) string {
	r := first(o.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), p.get("region"), s3utils.GetRegionFromURL(*endpoint))
	if r == "" && !s3utils.IsAmazonEndpoint(*endpoint) {
		return "us-east-1"
	}
	return r
}

func (o Options) lookup(endpoint *url.URL) (minio.BucketLookupType, error) {
	switch o.Addressing {
	case AddressPath:
		return minio.BucketLookupPath, nil
	case AddressHost:
		return minio.BucketLookupDNS, nil
	case AddressAuto:
		if s3utils.IsAmazonEndpoint(*endpoint) {
			return minio.BucketLookupAuto, nil
		}
		return minio.BucketLookupPath, nil
	}
	return 0, fmt.Errorf("%w: addressing %q: want %q or %q", ErrOptions, o.Addressing, AddressPath, AddressHost)
}

// putSettings is how objects are written, less what depends on the endpoint.
func (o Options) putSettings(p profile) (putSettings, error) {
	s := putSettings{class: o.StorageClass, lock: o.ObjectLock, checksum: o.Checksum}
	if o.ObjectLock < 0 {
		return s, fmt.Errorf("%w: object lock of %s", ErrOptions, o.ObjectLock)
	}
	switch s.checksum {
	case "":
		s.checksum = checksumCRC32C
		if strings.EqualFold(first(os.Getenv("AWS_REQUEST_CHECKSUM_CALCULATION"), p.get("request_checksum_calculation")), "when_required") {
			s.checksum = checksumNone
		}
	case checksumCRC32C, checksumMD5, checksumNone:
	default:
		return s, fmt.Errorf("%w: checksum %q: want %s, %s or %s", ErrOptions, o.Checksum, checksumCRC32C, checksumMD5, checksumNone)
	}
	if s.lock > 0 && s.checksum == checksumNone {
		s.checksum = checksumMD5 // S3 takes no object with a retention without one
	}
	kind, key, _ := strings.Cut(o.Encrypt, ":")
	var err error
	switch {
	case o.Encrypt == "":
	case o.Encrypt == "s3":
		s.encrypt = encrypt.NewSSE()
	case kind == "kms":
		s.encrypt, err = encrypt.NewSSEKMS(key, nil)
	default:
		err = fmt.Errorf("%q: want s3, kms or kms:KEY", o.Encrypt)
	}
	if err != nil {
		return s, fmt.Errorf("%w: encryption: %w", ErrOptions, err)
	}
	return s, nil
}

var _ storage.Store = (*Store)(nil)
