// Command gcs is Google Cloud Storage for tests: fake-gcs-server, and before it what that lacks of the XML API which
// real clients speak: plain PUTs with a condition, paged listings, and uploads in parts.
//
// Objects live in memory; nobody is asked who they are.
package main

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

// publicHost is the name under which the server behind speaks XML at all.
const publicHost = "storage.googleapis.com"

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on; printed once it is open")
	bucket := flag.String("bucket", "tasks", "bucket to make")
	flag.Parse()
	behind, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, PublicHost: publicHost})
	if err != nil {
		log.Fatalf("start fake-gcs-server: %v", err)
	}
	behind.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: *bucket})
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatalf("listen on %s: %v", *listen, err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, &front{behind: behind, uploads: map[string]*upload{}}))
}

type front struct {
	behind  *fakestorage.Server
	mu      sync.Mutex
	uploads map[string]*upload
	started int
}

// upload is one whose parts are not an object yet.
type upload struct {
	header http.Header
	parts  map[int][]byte
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	id := query.Get("uploadId")
	switch {
	case key == "" && r.Method == http.MethodGet:
		f.list(w, bucket, query)
	case r.Method == http.MethodPost && query.Has("uploads"):
		f.start(w, r)
	case r.Method == http.MethodPut && id != "":
		f.part(w, r, id, query.Get("partNumber"))
	case r.Method == http.MethodPost && id != "":
		f.complete(w, r, bucket, key, id)
	case r.Method == http.MethodDelete && id != "":
		f.mu.Lock()
		delete(f.uploads, id)
		f.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		f.put(w, bucket, key, r.Header, r.Body)
	default:
		r.Host = publicHost
		f.behind.HTTPHandler().ServeHTTP(w, r)
	}
}

// put stores an object through the JSON API, and answers as the XML API does.
func (f *front) put(w http.ResponseWriter, bucket, key string, header http.Header, body io.Reader) {
	query := url.Values{"uploadType": {"media"}, "name": {key}}
	if generation := header.Get("x-goog-if-generation-match"); generation != "" {
		query.Set("ifGenerationMatch", generation)
	}
	target := "/upload/storage/v1/b/" + url.PathEscape(bucket) + "/o?" + query.Encode()
	inner := httptest.NewRequest(http.MethodPost, target, body)
	inner.Header = header.Clone()
	answer := httptest.NewRecorder()
	f.behind.HTTPHandler().ServeHTTP(answer, inner)
	switch answer.Code {
	case http.StatusOK:
		var object struct{ Etag, Generation string }
		if err := json.Unmarshal(answer.Body.Bytes(), &object); err != nil {
			refuse(w, http.StatusInternalServerError, "InternalError")
			return
		}
		w.Header().Set("ETag", strconv.Quote(object.Etag))
		w.Header().Set("x-goog-generation", object.Generation)
	case http.StatusNotFound:
		refuse(w, answer.Code, "NoSuchBucket")
	case http.StatusPreconditionFailed:
		refuse(w, answer.Code, "PreconditionFailed")
	default:
		refuse(w, answer.Code, "InternalError")
	}
}

type folder struct{ Prefix string }

type listed struct {
	Key          string
	Size         int64
	LastModified string
	ETag         string
}

func (f *front) list(w http.ResponseWriter, bucket string, query url.Values) {
	found, err := f.behind.ListObjectsWithOptionsPaginated(bucket, fakestorage.ListOptions{Prefix: query.Get("prefix")})
	if err != nil {
		refuse(w, http.StatusNotFound, "NoSuchBucket")
		return
	}
	after := max(query.Get("start-after"), query.Get("continuation-token"))
	limit, err := strconv.Atoi(query.Get("max-keys"))
	if err != nil {
		limit = 1000
	}
	result := struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		NextContinuationToken string   `xml:",omitempty"`
		Contents              []listed
		CommonPrefixes        []folder
	}{}
	slices.SortFunc(found.Objects, func(a, b fakestorage.ObjectAttrs) int { return strings.Compare(a.Name, b.Name) })
	prefix, delimiter := query.Get("prefix"), query.Get("delimiter")
	for _, object := range found.Objects {
		if object.Name <= after {
			continue
		}
		if name, _, inside := strings.Cut(strings.TrimPrefix(object.Name, prefix), delimiter); delimiter != "" && inside {
			below := folder{prefix + name + delimiter}
			if n := len(result.CommonPrefixes); n == 0 || result.CommonPrefixes[n-1] != below {
				result.CommonPrefixes = append(result.CommonPrefixes, below)
			}
			continue
		}
		if len(result.Contents) == limit {
			result.NextContinuationToken = result.Contents[limit-1].Key
			break
		}
		result.Contents = append(result.Contents, listed{
			Key: object.Name, Size: object.Size, LastModified: object.Updated.UTC().Format(time.RFC3339), ETag: object.Etag,
		})
	}
	answer(w, result)
}

func (f *front) start(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started++
	id := "upload-" + strconv.Itoa(f.started)
	f.uploads[id] = &upload{header: r.Header.Clone(), parts: map[int][]byte{}}
	answer(w, struct {
		XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
		UploadId string
	}{UploadId: id})
}

func (f *front) part(w http.ResponseWriter, r *http.Request, id, number string) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender went away
	}
	n, err := strconv.Atoi(number)
	f.mu.Lock()
	defer f.mu.Unlock()
	found := f.uploads[id]
	if found == nil || err != nil {
		refuse(w, http.StatusNotFound, "NoSuchUpload")
		return
	}
	found.parts[n] = content
	w.Header().Set("ETag", etag(content))
}

func (f *front) complete(w http.ResponseWriter, r *http.Request, bucket, key, id string) {
	var wanted struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.NewDecoder(r.Body).Decode(&wanted); err != nil {
		refuse(w, http.StatusBadRequest, "MalformedXML")
		return
	}
	f.mu.Lock()
	found := f.uploads[id]
	delete(f.uploads, id)
	f.mu.Unlock()
	if found == nil {
		refuse(w, http.StatusNotFound, "NoSuchUpload")
		return
	}
	var whole bytes.Buffer
	for _, part := range wanted.Part {
		if content, ok := found.parts[part.PartNumber]; !ok || etag(content) != part.ETag {
			refuse(w, http.StatusBadRequest, "InvalidPart")
			return
		} else {
			whole.Write(content)
		}
	}
	stored := httptest.NewRecorder()
	f.put(stored, bucket, key, found.header, &whole)
	if stored.Code != http.StatusOK {
		w.WriteHeader(stored.Code)
		_, _ = w.Write(stored.Body.Bytes())
		return
	}
	w.Header().Set("x-goog-generation", stored.Header().Get("x-goog-generation"))
	answer(w, struct {
		XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
		ETag    string
	}{ETag: stored.Header().Get("ETag")})
}

func etag(content []byte) string {
	sum := md5.Sum(content)
	return strconv.Quote(hex.EncodeToString(sum[:]))
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code></Error>", code)
}

func answer(w http.ResponseWriter, document any) {
	w.Header().Set("Content-Type", "application/xml")
	if err := xml.NewEncoder(w).Encode(document); err != nil {
		log.Print(err) // the client went away
	}
}
