// Asks token-broker for an access token, as the ServiceAccount that the pod runs under.
package main

import (
	"context"
	"log"
	"os"
	"strings"
	"time"

	tokenbroker "example.com/example-caller/gen/tokenbroker/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// tokenFile is read at each call: the kubelet replaces the token long before it expires.
type tokenFile string

func (path tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(path))
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, err
}

func (tokenFile) RequireTransportSecurity() bool { return true }

func main() {
	tls, err := credentials.NewClientTLSFromFile(os.Getenv("TOKEN_BROKER_CA"), "")
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient(os.Getenv("TOKEN_BROKER_TARGET"), grpc.WithTransportCredentials(tls),
		grpc.WithPerRPCCredentials(tokenFile(os.Getenv("TOKEN_BROKER_TOKEN_FILE"))),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		log.Fatal(err)
	}
	client := tokenbroker.NewTokenServiceClient(conn)
	for ; ; time.Sleep(10 * time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		reply, err := client.GetToken(ctx, &tokenbroker.GetTokenRequest{GrantId: os.Getenv("GRANT_ID")})
		cancel()
		if err != nil {
			log.Print(err) // its ErrorInfo says what to do
			continue
		}
		// reply.Token.AccessToken goes into the Authorization header, and never into a log.
		log.Printf("generation %d lives until %s", reply.Token.Generation, reply.Token.ExpireTime.AsTime())
	}
}
