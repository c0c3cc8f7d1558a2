gcloud iap web add-iam-policy-binding --resource-type=RESOURCE_TYPE --service=$service \
    --member=$member --role=$role
